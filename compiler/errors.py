"""Every error a user can meet, and the exit code of each.

    LmiCompileError                    1   something of ours went wrong
    ├── UsageError                     2   the command line asks for something that does not exist
    ├── SourceError                    3   the model cannot be found, reached or read
    │   ├── CheckpointError                a shard is missing, truncated, or its header lies
    │   ├── TokenizerError                 text is needed and there is no tokenizer
    │   └── CalibrationError               the calibration text is empty, too short, or not this model's
    ├── RefusedError                   4   the model is fine, what is asked of it is not possible
    │   ├── UnknownArchitecture            no recipe reads it
    │   ├── ParallelError                  this tp cannot split it
    │   └── AccountingError                tensors that no rule takes, or roles that nothing fills
    ├── ResourceError                  5   the machine is too small
    │   ├── DiskFullError
    │   └── MemoryCeilingError
    ├── ToolchainError                 6   the compiler behind a target
    │   ├── ToolchainMissing
    │   └── CompileError
    ├── ArtifactError                  7   an artifact is damaged
    │   ├── IncompatibleError              ... or whole, but made for another machine
    │   └── SignatureError                 ... or not signed by whom it should be
    ├── NumericsError                  8   the artifact does not compute what the model computes
    ├── RankError                      9   a rank process died or hung
    ├── StoreError                    10   a store of artifacts cannot be reached, or refuses
    │   ├── NotFoundError                  there is nothing of this name
    │   └── ConflictError                  ... or something else, put there by somebody else
    ├── DeployError                   11   SageMaker refuses a request, or the endpoint does not start
    └── UnprovenError                 12   all is right as far as this machine can tell, which cannot run it

A message says what was expected and what was found; `hint` says what to do about it.
"""

from __future__ import annotations


class LmiCompileError(Exception):
    """What went wrong, and in `hint` what to do. `exit_code` is what the command line exits with."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(LmiCompileError):
    exit_code = 2


class SourceError(LmiCompileError):
    exit_code = 3


class CheckpointError(SourceError):
    """All the problems of a checkpoint at once: one line each in the message."""


class TokenizerError(SourceError):
    pass


class CalibrationError(SourceError):
    pass


class RefusedError(LmiCompileError):
    exit_code = 4


class UnknownArchitecture(RefusedError):
    pass


class ParallelError(RefusedError):
    pass


class AccountingError(RefusedError):
    pass


class ResourceError(LmiCompileError):
    exit_code = 5


class DiskFullError(ResourceError):
    pass


class MemoryCeilingError(ResourceError):
    pass


class ToolchainError(LmiCompileError):
    exit_code = 6


class ToolchainMissing(ToolchainError):
    pass


class CompileError(ToolchainError):
    pass


class ArtifactError(LmiCompileError):
    exit_code = 7


class IncompatibleError(ArtifactError):
    pass


class SignatureError(ArtifactError):
    pass


class NumericsError(LmiCompileError):
    exit_code = 8


class RankError(LmiCompileError):
    exit_code = 9


class StoreError(LmiCompileError):
    exit_code = 10


class NotFoundError(StoreError):
    pass


class ConflictError(StoreError):
    pass


class DeployError(LmiCompileError):
    exit_code = 11


class UnprovenError(LmiCompileError):
    exit_code = 12
