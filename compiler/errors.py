"""Errors that a user can meet, and their exit codes.

    LmiCompileError                    1   base class
    ├── UsageError                     2   an option, a name or an input of the command line is wrong
    ├── SourceError                    3   the model cannot be found, reached or read
    │   ├── CheckpointError                a shard is missing, truncated, or has a wrong header
    │   ├── TokenizerError                 text is needed and there is no tokenizer
    │   └── CalibrationError               the calibration text is empty, too short, or another model's
    ├── RefusedError                   4   the model is fine, but this cannot be built from it
    │   ├── UnknownArchitecture            no recipe reads it
    │   ├── ParallelError                  the tensor-parallel degree cannot split it
    │   └── AccountingError                tensors that no rule reads, or roles without a tensor
    ├── ResourceError                  5   the machine is too small
    │   ├── DiskFullError
    │   └── MemoryCeilingError
    ├── ToolchainError                 6   the compiler of a target fails
    │   ├── ToolchainMissing               it is not installed
    │   └── CompileError                   it rejects its input, crashes or runs out of time
    ├── ArtifactError                  7   an artifact is damaged
    │   ├── IncompatibleError              it is intact, but built for another machine
    │   └── SignatureError                 it lacks a valid signature of the required key
    ├── NumericsError                  8   the artifact's outputs are too far from the model's
    ├── RankError                      9   a rank process died or hung
    ├── StoreError                    10   an artifact store cannot be reached, or refuses
    │   ├── NotFoundError                  the name or tag does not exist
    │   └── ConflictError                  another writer changed the object first
    ├── DeployError                   11   SageMaker refuses a request, or the endpoint does not start
    ├── UnprovenError                 12   all checks that this machine can run pass, but it cannot run the artifact
    └── InternalError                 70   a bug of this program: an exception that nothing above foresees

Form: the message says what was expected and what was found, `hint` says what to do. With `--json` the command line
prints {"error": {"type", "message", "hint", "exit_code"}} on stderr.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class LmiCompileError(Exception):
    """Base class of all errors that a user can meet.

    `message` says what was expected and what was found, `hint` what to do; `exit_code` is the command line's. `log`:
    output of the process that failed, "" for none; the command line keeps it in a file.
    """

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "", log: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.log = log


class UsageError(LmiCompileError):
    """An option, a name or an input of the command line is wrong."""

    exit_code = 2


class SourceError(LmiCompileError):
    """The source model cannot be found, reached or read."""

    exit_code = 3


class CheckpointError(SourceError):
    """A checkpoint is damaged or incomplete; the message has one line for each problem."""


class OnlyPickledError(CheckpointError):
    """The weights of a remote model are pickles, whose tensors are known only after a download."""


class TokenizerError(SourceError):
    """Text is needed, and the source has no tokenizer that can be loaded."""


class CalibrationError(SourceError):
    """The calibration text is empty, too short, unreadable, or was tokenized for another model."""


class RefusedError(LmiCompileError):
    """The model is fine, but this combination of options cannot be built from it."""

    exit_code = 4


class UnknownArchitecture(RefusedError):
    """No recipe reads the architecture that config.json names."""


class ParallelError(RefusedError):
    """The tensor-parallel degree cannot split the model's heads."""


class AccountingError(RefusedError):
    """The checkpoint has tensors that no rule reads, or lacks tensors that the recipe needs."""


class ResourceError(LmiCompileError):
    """The machine is too small for the step."""

    exit_code = 5


class DiskFullError(ResourceError):
    """A file does not fit on its disk."""


class MemoryCeilingError(ResourceError):
    """The step needs more memory than `--max-memory` or the machine allows."""


class ToolchainError(LmiCompileError):
    """The compiler of a target fails."""

    exit_code = 6


class ToolchainMissing(ToolchainError):
    """The compiler of a target is not installed, or is a release that the target does not support."""


class CompileError(ToolchainError):
    """The compiler of a target rejects its input, crashes or runs out of time."""


class ArtifactError(LmiCompileError):
    """The artifact is damaged: a file is missing, has another size or digest, or is malformed."""

    exit_code = 7


class IncompatibleError(ArtifactError):
    """The artifact is intact, but was built for another torch, CPU or GPU."""


class SignatureError(ArtifactError):
    """The artifact has no valid signature of the required key."""


class NumericsError(LmiCompileError):
    """The artifact's outputs differ from the source model's by more than the limits."""

    exit_code = 8


class RankError(LmiCompileError):
    """A rank process died or hung."""

    exit_code = 9


class StoreError(LmiCompileError):
    """An artifact store cannot be reached, or refuses a request."""

    exit_code = 10


class NotFoundError(StoreError):
    """The store has no artifact or tag of this name."""


class ConflictError(StoreError):
    """Another writer changed the same object first."""


class DeployError(LmiCompileError):
    """SageMaker refuses a request, or the endpoint does not start."""

    exit_code = 11


class UnprovenError(LmiCompileError):
    """All checks that this machine can run pass, but it cannot run the artifact."""

    exit_code = 12


class StoppedError(LmiCompileError):
    """The user stopped the command with Ctrl-C; the hint says what is kept."""

    exit_code = 130  # as a shell reports SIGINT


REPORT_IT = "report it with its traceback to the maintainers of lmi-compile"
"""Hint of an InternalError where no file has the traceback."""


class InternalError(LmiCompileError):
    """A bug of this program. `__cause__` is the exception, `facts` say where it came from: step, input, command."""

    exit_code = 70  # EX_SOFTWARE of sysexits(3)

    def __init__(self, cause: BaseException, facts: dict[str, str], *, hint: str) -> None:
        self._cause, self.facts = f"{type(cause).__name__}: {cause}", facts
        super().__init__(self._text(), hint=hint)

    @property
    def cause_name(self) -> str:
        """Class of the exception, which says nothing about what was sent."""
        return self._cause.partition(":")[0]

    def add(self, facts: dict[str, str]) -> None:
        """Add facts that an outer boundary knows; those of an inner one are kept."""
        self.facts |= {name: fact for name, fact in facts.items() if name not in self.facts}
        self.message = self._text()

    def _text(self) -> str:
        lines = (f"  {name}: {value}" for name, value in self.facts.items())
        return "\n".join([f"this is a bug in lmi-compile: {self._cause}", *lines])


@contextmanager
def boundary(**facts: object) -> Iterator[None]:
    """Let no exception out but LmiCompileError, so that a caller has one kind to handle.

    An exception of the operating system that is no bug (permissions, a full disk, no memory) becomes the error for it,
    any other exception an InternalError with `facts`, such as `step` and `input`; a fact may be a function, called
    after the exception. KeyboardInterrupt and SystemExit pass.
    """
    try:
        yield
    except InternalError as error:
        error.add(_texts(facts))
        raise
    except LmiCompileError:
        raise
    except (KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        # A panic of a library in Rust derives from BaseException.
        raise _of_system(error) or InternalError(error, _texts(facts), hint=REPORT_IT) from error


def _texts(facts: Mapping[str, object]) -> dict[str, str]:
    found = {name: str(fact() if callable(fact) else fact) for name, fact in facts.items()}
    return {name: text for name, text in found.items() if text}


_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.ETXTBSY}
"""Codes of a path that the user has to change, or to give permissions to."""
_FULL = {errno.ENOSPC, errno.EDQUOT}
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EAGAIN}


def _of_system(error: BaseException) -> LmiCompileError | None:
    """Error for an exception that the operating system causes; None for others."""
    # torch raises RuntimeError for memory, on CPUs and on GPUs.
    if isinstance(error, MemoryError) or "allocate memory" in str(error) or "out of memory" in str(error):
        return MemoryCeilingError(
            f"this machine has too little memory: {error}",
            hint="free some memory, lower `--max-memory`, `--jobs` or the limits, or use a larger machine",
        )
    if not isinstance(error, OSError):
        return None
    where = f"{error.filename}: " if error.filename else ""
    if error.errno in _REFUSED:
        return UsageError(f"{where}{error.strerror}", hint="change the permissions of this path, or pass another one")
    if error.errno in _FULL:
        return DiskFullError(
            f"{where}{error.strerror}",
            hint="free some space, or choose another disk with `--output` and LMI_COMPILE_CACHE",
        )
    if error.errno in _EXHAUSTED:
        return ResourceError(f"{where}{error.strerror}", hint="end other programs, or raise the limits (`ulimit -a`)")
    return None
