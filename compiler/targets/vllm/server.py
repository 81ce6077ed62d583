"""One start of a server in a folder of its own: its session is described, run by the carrier, and read back."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import CompileError, UsageError
from compiler.targets.vllm import carrier
from compiler.targets.vllm.carrier.restore import MARK
from compiler.targets.vllm.environment import server_environment
from compiler.targets.vllm.harvest import names
from compiler.targets.vllm.proof import UNCOMPARED, Start, new_files, records_of, written_since
from compiler.targets.vllm.serving import server_argv

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from compiler.targets.vllm.isolation import Isolation
    from compiler.targets.vllm.serving import Serving

BOOT, DIST_INFO = "lmi_boot", "lmi_boot-1.dist-info"
_METADATA = "Metadata-Version: 2.1\nName: lmi-boot\nVersion: 1\n"
_ENTRY_POINTS = "[vllm.general_plugins]\nlmi_boot = lmi_boot:boot\n"
_SOCKET_PATH, _SOCKET_NAME = 107, 37
"""Bytes of a socket's path (unix(7)), and of its name: a slash and a UUID."""
_LOG_TAIL = 64_000
"""Characters of server.log that an error keeps."""


@dataclass(frozen=True)
class ServerHost:
    """Place that servers run in. `python`: interpreter that has vLLM. `python_path`: folders searched besides the
    carrier's. `seconds`: time limit for a start.
    """

    python: str
    isolation: Isolation
    python_path: tuple[str, ...] = ()
    seconds: float = 1800.0


@dataclass(frozen=True)
class ServerRun:
    """One start among several. `name`: of its folder. `root`: folder of its caches. `settings`: its environment.
    `carrier`: folder that holds the carrier. `restored`: files below `root` that the carrier restores, digest by path.
    `read_only`: whether the model's folder is. `extra`: further arguments.
    """

    name: str
    model: Path
    root: Path
    settings: Mapping[str, str]
    carrier: Path
    restored: Mapping[str, str] = field(default_factory=dict)
    read_only: bool = True
    requests: Sequence[Mapping[str, Any]] = ()
    extra: tuple[str, ...] = ()


def carrier_files() -> dict[str, bytes]:
    """Files of the carrier by their path in the artifact."""
    folder = Path(carrier.__file__).parent
    code = {f"{BOOT}/{path.name}": path.read_bytes() for path in sorted(folder.glob("*.py"))}
    return {
        **code,
        f"{DIST_INFO}/METADATA": _METADATA.encode(),
        f"{DIST_INFO}/entry_points.txt": _ENTRY_POINTS.encode(),
    }


def install_carrier(folder: Path) -> Path:
    """Write the carrier's files into `folder`; returns it."""
    for name, data in carrier_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def start(run: ServerRun, machine: ServerHost, serving: Serving, work: Path) -> Start:
    """Start a server, send it the requests, stop it. `work`: parent of the run's folder.

    Raises CompileError if the session itself could not run, UsageError for a folder that is too long for sockets; a
    server that failed is in the result's session.
    """
    folder = work / run.name
    shutil.rmtree(folder, ignore_errors=True)
    home, record = folder / "home", folder / "record"
    for each in (home, record):
        each.mkdir(parents=True)
    with tempfile.TemporaryDirectory(prefix="lmi-") as temporary:
        _check_length(temporary)
        before = names(run.root)
        session = _session(run, machine, serving, folder, temporary)
        found = _run(session, machine.isolation.prefix, run.carrier, folder)
        files = new_files(run.root, before, {"HOME": home, "TMPDIR": Path(temporary)})
    records = records_of(record)
    mark = record / MARK
    if mark.is_file():
        files["root"] = written_since(run.root, run.restored, mark)
    return Start({name: paths for name, paths in files.items() if paths}, records, found)


def _check_length(temporary: str) -> None:
    """vLLM's processes talk over sockets in their temporary folder, whose paths Linux limits to 107 bytes."""
    room = _SOCKET_PATH - _SOCKET_NAME
    if len(os.fsencode(temporary)) > room:
        raise UsageError(
            f"expected at most {room} bytes in the path of vLLM's temporary folder; found {temporary}",
            hint="set TMPDIR to a folder with a shorter path",
        )


def _session(run: ServerRun, machine: ServerHost, serving: Serving, folder: Path, temporary: str) -> dict[str, Any]:
    """Input of the carrier's session.py."""
    isolated = machine.isolation.isolated
    port = 8000 if isolated else free_port()
    environment = server_environment(
        os.environ,
        {**run.settings, "LMI_BOOT_RECORD": str(folder / "record")},
        home=str(folder / "home"),
        temporary=temporary,
        python_path=os.pathsep.join([str(run.carrier), *machine.python_path]),
    )
    mount = [str(run.model), serving.model, "ro" if run.read_only else "rw"]
    return {
        "argv": [*server_argv(serving, machine.python, "127.0.0.1", port), *run.extra],
        "env": environment,
        "mounts": [mount] if isolated else [],
        "loopback": isolated,
        "port": port,
        "ready_seconds": machine.seconds,
        "requests": list(run.requests),
        "out": str(folder),
    }


def _run(session: Mapping[str, Any], prefix: Sequence[str], boot: Path, folder: Path) -> dict[str, Any]:
    file = folder / "input.json"
    file.write_text(json.dumps(session, indent=1))
    argv = [*prefix, sys.executable, "-P", "-m", f"{BOOT}.session", str(file)]
    ran = subprocess.run(
        argv, env={**os.environ, "PYTHONPATH": str(boot)}, capture_output=True, text=True, check=False, cwd=folder
    )
    result = folder / "session.json"
    if ran.returncode != 0 or not result.is_file():
        raise CompileError(
            f"the session of the vLLM server `{folder.name}` ended with exit code {ran.returncode}",
            hint="the log has its output",
            log=ran.stderr[-_LOG_TAIL:],
        )
    found: dict[str, Any] = json.loads(result.read_text())
    return found


def log_of(work: Path, name: str) -> str:
    """End of the server's log of the run `name`."""
    path = work / name / "server.log"
    return path.read_text(errors="replace")[-_LOG_TAIL:] if path.is_file() else ""


def free_port() -> int:
    """Port that is free on this machine."""
    with socket.socket() as opened:
        opened.bind(("127.0.0.1", 0))
        port: int = opened.getsockname()[1]
        return port


def workload(model: str, vocab: int, longest: int, rows: int) -> list[dict[str, Any]]:
    """Requests that reach every kernel: prefills of several lengths, a batch of decodes, log probabilities, a stream.

    `longest`: tokens of a prompt; `rows`: prompts at once.
    """

    def body(tokens: int, **more: Any) -> dict[str, Any]:
        ids = [(7 * place + tokens) % (vocab - 1) for place in range(tokens)]
        return {"model": model, "prompt": ids, "max_tokens": 8, "temperature": 0, "ignore_eos": True, **more}

    lengths = sorted({min(length, longest) for length in (1, 2, 17, 64, 256, longest)})
    detail = {"logprobs": 5, "return_token_ids": True}
    return [
        *({"name": f"prefill {length}", "bodies": [body(length, **detail)]} for length in lengths),
        {"name": "prompt", "bodies": [body(min(33, longest), prompt_logprobs=5, **detail)]},
        {"name": "stream", "bodies": [body(min(5, longest), stream=True)]},
        {"name": UNCOMPARED, "bodies": [body(min(3 + 4 * row, longest)) for row in range(min(rows, 8))]},
    ]
