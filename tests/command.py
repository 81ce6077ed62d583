"""The command line, run in this process, with a stage cache of its own."""

from __future__ import annotations

import io
import json
import os
import sys
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from compiler.cli import main
from compiler.targets.inductor.target import SegmentCompiler
from tests.stand_in import StandIn

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


@dataclass(frozen=True)
class Ran:
    """Exit code, stdout and stderr of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The result that a command prints with `--json`."""
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        """The error that a command prints with `--json`: type, message, hint, exit_code."""
        found: dict[str, Any] = json.loads(self.err.splitlines()[-1])["error"]
        return found


def command(
    *arguments: str | Path, cache: Path, compiles: bool = False, environment: Mapping[str, str] | None = None
) -> Ran:
    """Run `lmi-compile ARGUMENTS` with the stage cache in the folder `cache` and the variables `environment`.

    Target inductor compiles nothing (`tests.stand_in`) unless `compiles`. An exception that the command line lets
    through is raised here.
    """
    out, err = io.StringIO(), io.StringIO()
    argv = ["lmi-compile", *map(str, arguments)]
    code = 0
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, {"LMI_COMPILE_CACHE": str(cache), **(environment or {})}))
        stack.enter_context(patch.object(sys, "argv", argv))
        if not compiles:
            stack.enter_context(patch.object(SegmentCompiler, "toolchain", lambda _self: StandIn("inductor")))
        stack.enter_context(redirect_stdout(out))
        stack.enter_context(redirect_stderr(err))
        try:
            main()
        except SystemExit as ended:
            code = int(ended.code or 0)
    return Ran(code, out.getvalue(), err.getvalue())
