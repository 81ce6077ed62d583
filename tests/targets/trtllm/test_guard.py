"""What a build has started ends with it, however it ends: real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from compiler.errors import CompileError, ToolchainMissing
from compiler.targets.trtllm import build

BUILD = """
import sys
from pathlib import Path
from compiler.targets.trtllm import build
build.run([sys.argv[1]], Path(sys.argv[2]), timeout_s=300)
"""


def _builder(folder: Path) -> tuple[Path, Path]:
    """A command that starts a worker and waits for it; the file where the processes of both are named."""
    script, pids = folder / "builder", folder / "pids"
    script.write_text(f'#!/bin/sh\nsleep 300 &\necho "$$ $!" > {pids}.part\nmv {pids}.part {pids}\nwait\n')
    script.chmod(0o755)
    return script, pids


def _alive(pid: int) -> bool:
    try:
        # What is dead and not waited for still has its number.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def _gone(pids: list[int]) -> bool:
    for _ in range(200):
        if not any(map(_alive, pids)):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_build_that_is_killed_leaves_no_builder_and_no_worker(how: signal.Signals, tmp_path: Path) -> None:
    script, named = _builder(tmp_path)
    killed = subprocess.Popen([sys.executable, "-c", BUILD, str(script), str(tmp_path / "log")])
    while not named.exists():
        assert killed.poll() is None
        time.sleep(0.02)
    pids = [int(pid) for pid in named.read_text().split()]
    assert all(map(_alive, pids))
    killed.send_signal(how)
    killed.wait()
    assert _gone(pids)


def test_workers_end_with_a_build_that_takes_too_long(tmp_path: Path) -> None:
    script, named = _builder(tmp_path)
    with pytest.raises(CompileError, match="did not finish"):
        build.run([str(script)], tmp_path / "log", timeout_s=2)
    assert _gone([int(pid) for pid in named.read_text().split()])


@pytest.mark.parametrize(
    ("text", "words"),
    [("exit 3", "failed with exit code 3"), ("kill -SEGV $$", "failed with exit code 139")],
)
def test_the_code_is_the_commands(text: str, words: str, tmp_path: Path) -> None:
    script = tmp_path / "builder"
    script.write_text(f"#!/bin/sh\necho said\n{text}\n")
    script.chmod(0o755)
    with pytest.raises(CompileError, match=f"{words}.*\n.*said"):
        build.run([str(script)], tmp_path / "log")


def test_a_command_that_cannot_be_started(tmp_path: Path) -> None:
    script = tmp_path / "builder"
    script.write_text("no command")
    with pytest.raises(ToolchainMissing, match=r"cannot be started: .*Permission denied"):
        build.run([str(script)], tmp_path / "log")
    with pytest.raises(ToolchainMissing, match=r"cannot be started: .*No such file"):
        build.run([str(tmp_path / "gone")], tmp_path / "log")
