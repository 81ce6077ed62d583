"""Every exception that leaves a command is an error with an exit code; a bug says that it is one."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from compiler.errors import CheckpointError, CompileError, InternalError, LmiCompileError, boundary
from compiler.pipeline import resolve
from tests.cases.checkpoints import write
from tests.command import Ran, command

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).parents[2]


class Panic(BaseException):
    """An exception such as those of libraries in Rust: no Exception."""


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Ran]:
    """`fails(error, *options)`: `plan` of a checkpoint, where reading the plan raises the error."""
    model = write(tmp_path / "model")

    def run(error: BaseException, *options: str, **environment: str) -> Ran:
        def plan_model(*_: Any) -> None:
            raise error

        monkeypatch.setattr(resolve, "plan_model", plan_model)
        return command("plan", "--model", model, *options, cache=tmp_path / "cache", environment=environment)

    return run


@pytest.mark.parametrize("error", [KeyError("q_proj"), RecursionError("deep"), Panic("index out of bounds")])
def test_a_bug_is_reported_as_a_bug(fails: Callable[..., Ran], tmp_path: Path, error: BaseException) -> None:
    ran = fails(error)
    (crash,) = (tmp_path / "cache" / "crashes").iterdir()
    assert (ran.code, ran.out) == (70, "")
    assert ran.err.splitlines() == [
        f"error: this is a bug in lmi-compile: {type(error).__name__}: {error}",
        "  step: plan",
        f"  input: {tmp_path / 'model'}",
        f"  command: lmi-compile plan --model {tmp_path / 'model'}",
        "",
        f"hint: report it to the maintainers of lmi-compile with the file {crash}, which has the traceback",
    ]
    text = crash.read_text()
    assert "lmi-compile: 0.1.0\n" in text
    assert "step: plan\n" in text
    assert "in plan_model\n    raise error\n" in text


def test_with_json_a_bug_is_one_json_object(fails: Callable[..., Ran]) -> None:
    ran = fails(ValueError("é\ud83d"), "--json")
    assert (ran.code, ran.error["exit_code"], ran.error["type"]) == (70, 70, "InternalError")
    assert len(ran.err.splitlines()) == 1


def test_a_variable_shows_the_traceback(fails: Callable[..., Ran]) -> None:
    assert "Traceback" not in fails(KeyError("a")).err
    assert "Traceback" in fails(KeyError("a"), LMI_COMPILE_TRACEBACK="1").err


def test_a_crash_without_a_cache_folder_is_kept_elsewhere(fails: Callable[..., Ran], tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    ran = fails(KeyError("a"), LMI_COMPILE_CACHE=str(blocked), TMPDIR=str(tmp_path))
    assert ran.code == 70
    assert "lmi-compile-crashes" in ran.err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "/model/config.json"), 2, "/model/config.json: Permission"),
        (OSError(errno.EROFS, "Read-only file system", "/out"), 2, "/out: Read-only file system"),
        (OSError(errno.ENOSPC, "No space left on device"), 5, "No space left"),
        (OSError(errno.EMFILE, "Too many open files"), 5, "Too many open files"),
        (MemoryError(), 5, "too little memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried"), 5, "too little memory"),
        (FileNotFoundError(errno.ENOENT, "No such file or directory", "/lost"), 70, "/lost"),
    ],
)
def test_a_fault_of_the_system_is_no_bug(fails: Callable[..., Ran], error: OSError, code: int, said: str) -> None:
    ran = fails(error)
    assert ran.code == code
    assert said in ran.err


def test_an_interrupted_command_ends_with_130(fails: Callable[..., Ran]) -> None:
    ran = fails(KeyboardInterrupt())
    assert ran.code == 130
    assert "stopped by Ctrl-C" in ran.err


def test_a_reader_that_leaves_is_no_bug() -> None:
    line = f"{sys.executable} -m compiler plan --help | true; exit ${{PIPESTATUS[0]}}"
    unbuffered = {**os.environ, "PYTHONUNBUFFERED": "1"}
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=ROOT, env=unbuffered, check=False)
    assert (done.returncode in (0, 1), done.stderr) == (True, "")


def test_a_name_that_is_not_unicode_is_an_error_as_any_other() -> None:
    argv = [sys.executable, "-m", "compiler", "plan", "--model", os.fsdecode(b"/no/\xff")]
    done = subprocess.run(argv, capture_output=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr.splitlines()[0]) == (3, rb"error: no such folder: /no/\udcff")


def test_an_outer_boundary_adds_what_it_knows() -> None:
    with pytest.raises(InternalError) as caught, boundary(step="outer", input="model"), boundary(step="inner"):
        raise KeyError("a")
    assert caught.value.facts == {"step": "inner", "input": "model"}
    assert isinstance(caught.value.__cause__, KeyError)


@pytest.mark.parametrize("error", [CheckpointError("damaged", hint="copy it"), KeyboardInterrupt(), SystemExit(3)])
def test_a_boundary_lets_errors_and_interrupts_through(error: BaseException) -> None:
    with pytest.raises(type(error)) as caught, boundary(step="any"):
        raise error
    assert caught.value is error
    assert not isinstance(error, InternalError)
    assert isinstance(error, LmiCompileError) or error.__cause__ is None


def test_the_log_of_a_process_that_failed_is_a_file(fails: Callable[..., Ran], tmp_path: Path) -> None:
    ran = fails(CompileError("segment `a` did not compile", hint="see the log", log="Traceback ...\nout of luck\n"))
    (log,) = (tmp_path / "cache" / "crashes").iterdir()
    assert ran.code == 6
    assert ran.err == f"error: segment `a` did not compile\n\nhint: see the log\nThe log is {log}\n"
    assert log.read_text() == "Traceback ...\nout of luck\n"
