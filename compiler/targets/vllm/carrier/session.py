"""One start of a vLLM server: wait until it is ready, send requests, stop it, write what happened.

Command: `python -m lmi_boot.session SESSION.json`, also inside a container: it needs the standard library alone. The
input has

    argv, env        command line and whole environment of the server
    mounts           [[source, destination, "ro" | "rw"]]: bind mounts made first, in a mount namespace of its own
    loopback         whether to bring up the interface `lo`, in a network namespace of its own
    port             where the server listens on 127.0.0.1
    ready_seconds    time limit for the start
    requests         [{"name", "bodies": [...], "path"}]: the bodies of one entry are sent at the same time
    out              folder for server.log and session.json

session.json has `ready` (seconds, null if it never was), `cpu` (seconds of the server with its children), `returncode`,
`error`, `first` (seconds of the first request) and `answers` ({name: [answer, ...]}); a streamed answer is the list of
its events.
"""

from __future__ import annotations

import fcntl
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

_IFF_UP = 1
_SIOCSIFFLAGS = 0x8914
"""ioctl that sets the flags of a network interface (netdevice(7))."""
_GRACE = 60.0
"""Seconds between SIGTERM and SIGKILL."""
_REQUEST_SECONDS = 600.0


def run(session: dict[str, Any]) -> dict[str, Any]:
    """Run one session; returns the content of session.json. Raises OSError, CalledProcessError for a failed mount."""
    out = Path(session["out"])
    out.mkdir(parents=True, exist_ok=True)
    for source, destination, mode in session.get("mounts", []):
        subprocess.run(["mount", "--bind", source, destination], check=True)
        if mode == "ro":
            subprocess.run(["mount", "-o", "remount,bind,ro", destination], check=True)
    if session.get("loopback"):
        _bring_up_loopback()
    began = time.monotonic()
    with (out / "server.log").open("wb") as log:
        server = subprocess.Popen(
            session["argv"], env=session["env"], stdout=log, stderr=subprocess.STDOUT, start_new_session=True, cwd=out
        )
        found: dict[str, Any] = {"ready": None, "answers": {}, "error": ""}
        try:
            found["ready"] = _wait(server, session["port"], session["ready_seconds"], began)
            for request in session["requests"]:
                sent = time.monotonic()
                found["answers"][request["name"]] = _at_once(session["port"], request)
                found.setdefault("first", time.monotonic() - sent)
        except (OSError, ValueError, RuntimeError) as error:
            found["error"] = f"{type(error).__name__}: {error}"
        finally:
            found["returncode"] = _stop(server)
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    found |= {"seconds": time.monotonic() - began, "cpu": used.ru_utime + used.ru_stime}
    (out / "session.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    return found


def _bring_up_loopback() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as opened:
        fcntl.ioctl(opened, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _IFF_UP))


def _wait(server: subprocess.Popen[bytes], port: int, limit: float, began: float) -> float:
    """Seconds until the server answers at /health. Raises RuntimeError where it ends before, or is late."""
    while time.monotonic() - began < limit:
        if server.poll() is not None:
            raise RuntimeError(f"the server ended with exit code {server.returncode} before it was ready")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                return time.monotonic() - began
        except OSError:
            time.sleep(0.1)
    raise RuntimeError(f"the server was not ready after {limit:g} s")


def _at_once(port: int, request: dict[str, Any]) -> list[Any]:
    """Answers to the bodies of one entry, sent in parallel, in their order. Raises OSError, RuntimeError."""
    answers: list[Any] = [None] * len(request["bodies"])

    def send(place: int, body: dict[str, Any]) -> None:
        try:
            answers[place] = _post(port, request.get("path", "/v1/completions"), body)
        except (OSError, ValueError) as error:
            answers[place] = error

    threads = [threading.Thread(target=send, args=each) for each in enumerate(request["bodies"])]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for answer in answers:
        if isinstance(answer, Exception):
            raise RuntimeError(f"request `{request['name']}`: {answer}")
    return answers


def _post(port: int, path: str, body: dict[str, Any]) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}{path}", json.dumps(body).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=_REQUEST_SECONDS) as answer:  # noqa: S310
            data = answer.read()
    except urllib.error.HTTPError as error:
        raise OSError(f"{error.code} {error.read()[:2000].decode(errors='replace')}") from None
    if not body.get("stream"):
        return json.loads(data)
    events = [line[6:] for line in data.decode().splitlines() if line.startswith("data: ")]
    return [json.loads(event) for event in events if event != "[DONE]"]


def _stop(server: subprocess.Popen[bytes]) -> int:
    """Exit code of the server after SIGTERM; nothing of its process group is left."""
    if server.poll() is None:
        server.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            server.wait(_GRACE)
    with suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    return server.wait()


if __name__ == "__main__":
    print(json.dumps(run(json.loads(Path(sys.argv[1]).read_text()))["error"]))
