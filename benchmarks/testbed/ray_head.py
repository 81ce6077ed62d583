"""Ray cluster of one head on this machine, for tests and benchmarks."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
_STARTS = 3
"""Tries: Ray gives a head 30 seconds, which a busy machine may not have."""
_TIMED_OUT = "timed out during startup"
"""In the log of a head that had too little time (ray/_private/node.py)."""
_SETTINGS = {
    "PYTHONPATH": str(ROOT),
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_agent_register_timeout_ms": "120000",
    "RAY_worker_niceness": "0",  # 15 otherwise: nothing is left for workers on a busy machine
}


class SlowStartError(RuntimeError):
    """No head came up within Ray's own limit."""


@contextmanager
def ray_head(cores: int, resources: Mapping[str, float] | None = None) -> Iterator[str]:
    """Run a head with custom `resources`. Its processes get this process's environment. Yields its address.

    Raises SlowStartError.
    """
    folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # names of sockets have 107 bytes at most
    command = [
        str(Path(sys.executable).parent / "ray"), "start", "--head", "--port=0", f"--num-cpus={cores}", "--block",
        f"--resources={json.dumps(dict(resources or {}))}", f"--temp-dir={folder}", "--include-dashboard=false",
        "--no-monitor", "--include-log-monitor=false", "--disable-usage-stats", "--object-store-memory=80000000",
    ]  # fmt: skip
    log = folder / "log"
    try:
        for _ in range(_STARTS):
            with log.open("w") as sink:
                head = subprocess.Popen(
                    command, env={**os.environ, **_SETTINGS}, stdout=sink, stderr=sink, start_new_session=True
                )
            try:
                if address := _address(head, log):
                    yield address
                    return
            finally:
                _end(head)
        said = log.read_text()
        raise SlowStartError(said) if _TIMED_OUT in said else AssertionError(said)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _address(head: subprocess.Popen[bytes], log: Path) -> str:
    """Address that the head prints; "" where it ends at its start."""
    while head.poll() is None:
        if found := re.search("--address='([^']+)'", log.read_text()):
            return found[1]
        time.sleep(0.1)
    return ""


def _end(head: subprocess.Popen[bytes]) -> None:
    head.terminate()
    try:
        head.wait(20)
    except subprocess.TimeoutExpired:
        os.killpg(head.pid, signal.SIGKILL)
        head.wait()
