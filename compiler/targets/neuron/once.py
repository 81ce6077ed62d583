"""One timed answer by the server of a driver's container, which must compile nothing, as at the start of an endpoint.

Command: `python -m compiler.targets.neuron.once ARTIFACT PROMPT MAX_NEW_TOKENS PATH`. Prints one JSON object with the
figures of `Runner.once`. The server has the variables of its container, a HOME and a temporary folder of its own, a
copy of the artifact's compile cache, and the guard of restart.py before its PATH.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.artifact.manifest import load_manifest
from compiler.errors import IncompatibleError, LmiCompileError, RankError, boundary
from compiler.targets.neuron.artifact import section_of
from compiler.targets.neuron.drivers.driver import PINNED
from compiler.targets.neuron.neuronx import COMMAND
from compiler.targets.neuron.restart import GUARD, REAL, RUNS, Restart
from compiler.targets.neuron.runtime import driver_of_manifest

if TYPE_CHECKING:
    from collections.abc import Sequence

MODEL = "/opt/ml/model"
"""Folder of the artifact in the container, by which its variables name it."""
START_S = 3600.0
"""Seconds for a start: SageMaker's limit."""
_LOG = 4000
"""Characters of the end of the server's log that an error keeps."""


def answer_once(artifact: Path, prompt: str, max_new_tokens: int, path: str) -> dict[str, Any]:
    """Start the server, let it answer greedily, stop it.

    Raises RankError where it does not answer, or compiled something; IncompatibleError for an artifact without one.
    """
    manifest = load_manifest(artifact)
    found = driver_of_manifest(manifest)
    server = found[0].server(found[1]) if found else ()
    if not server:
        raise IncompatibleError(
            f"`{manifest.name}` has no server that starts without its container", hint="deploy it with its image"
        )
    with tempfile.TemporaryDirectory(prefix="lmi-neuron-") as folder:
        work = Path(folder)
        environment = _environment(artifact, section_of(manifest).environment, work, path)
        before = _cached(work)
        port = _free_port()
        argv = [word.format(model=artifact, port=port) for word in server]
        began = time.monotonic()
        with (work / "log").open("wb") as log:
            process = subprocess.Popen(
                argv, env=environment, cwd=work, stdout=log, stderr=log, start_new_session=True
            )  # fmt: skip
            try:
                ready = _ready(process, port, began)
                body = {"model": str(artifact), "prompt": prompt, "max_tokens": max_new_tokens, "temperature": 0}
                asked = time.monotonic()
                answer = _ask(port, body) if ready is not None else None
            finally:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        text = (work / "log").read_text(errors="replace")[-_LOG:]
        runs = tuple((work / "runs").read_text().splitlines())
        new = tuple(sorted(_cached(work) - before))
    start = Restart(0 if answer is not None else process.returncode, 0, runs, new)
    if start.reasons or answer is None or ready is None:
        raise RankError(
            "\n".join([f"{artifact} does not start from what was compiled:", *(f"  {one}" for one in start.reasons)]),
            hint=f"its image is {section_of(manifest).image}; other versions look for other executables",
            log=text,
        )
    return _figures(answer, ready, asked)


def _environment(artifact: Path, served: dict[str, str], work: Path, path: str) -> dict[str, str]:
    """Environment of the server: its container's, with the guard."""
    guard = work / "guard"
    guard.mkdir()
    for name, text in GUARD.items():
        (guard / name).write_text(text)
        (guard / name).chmod(0o755)
    for name in ("home", "tmp"):
        (work / name).mkdir()
    if (artifact / "cache").is_dir():
        shutil.copytree(artifact / "cache", work / "cache")
    (work / "runs").touch()
    own = {name: value for name, value in os.environ.items() if not name.startswith(PINNED)}
    return own | {name: value.replace(MODEL, str(artifact)) for name, value in served.items()} | {
        "NEURON_COMPILE_CACHE_URL": str(work / "cache"),
        "HOME": str(work / "home"),
        "TMPDIR": str(work / "tmp"),
        "PATH": f"{guard}:{path}",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(guard), os.environ.get("PYTHONPATH")))),
        REAL: shutil.which(COMMAND, path=path) or f"/nonexistent/{COMMAND}",
        RUNS: str(work / "runs"),
    }  # fmt: skip


def _cached(work: Path) -> frozenset[str]:
    return frozenset(
        str(path.relative_to(work)) for path in (work / "cache").rglob("*") if path.is_file() and path.suffix != ".lock"
    )


def _ready(process: subprocess.Popen[bytes], port: int, began: float) -> float | None:
    """Seconds until the server is ready; None if it ended, or took too long."""
    while process.poll() is None and time.monotonic() - began < START_S:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10):
                return time.monotonic() - began
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    return None


def _ask(port: int, body: dict[str, Any]) -> dict[str, Any] | None:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json"},
    )
    try:
        with urllib.request.urlopen(request, timeout=600) as answered:  # noqa: S310  # http, above
            found: dict[str, Any] = json.load(answered)
            return found
    except (urllib.error.URLError, OSError, ValueError):
        return None


def _figures(answer: dict[str, Any], ready: float, asked: float) -> dict[str, Any]:
    choice, usage = answer["choices"][0], answer.get("usage") or {}
    took = time.monotonic() - asked
    return {
        "hit": True,
        "seconds_to_load": ready,
        "seconds_to_first_token": took,
        "seconds_to_answer": took,
        "prompt_tokens": usage.get("prompt_tokens"),
        "new_tokens": usage.get("completion_tokens"),
        "finish_reason": choice.get("finish_reason"),
        "text": choice.get("text", ""),
    }


def _free_port() -> int:
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port


def main(words: Sequence[str]) -> None:
    with boundary(input=words[0]):
        print(json.dumps(answer_once(Path(words[0]), words[1], int(words[2]), words[3])))


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except LmiCompileError as error:
        print(error.log, error.message.replace("\n", ";"), sep="\n", file=sys.stderr)
        sys.exit(error.exit_code)
