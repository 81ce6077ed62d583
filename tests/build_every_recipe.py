"""Complete artifacts of tiny checkpoints, through the command line: `build`, `verify --model`, `generate`.

    python -m tests.build_every_recipe                    # every row, about two minutes each on two cores
    python -m tests.build_every_recipe gpt_oss/yarn olmo2@2
    python -m tests.build_every_recipe opt --max-batch 1  # without the packages that decode several rows

compiles for the CPU in the checkpoint's bfloat16. It is not a test of the suite: it compiles for an hour. A row is a
case of `tests.tiny` with its tp, and where no case has it a rope scaling. Stages are cached (`LMI_COMPILE_CACHE`), so
that a second run only compiles what changed. Exit code 1 if any row fails.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.tiny import TINY, write_checkpoint

POSITIONS, NEW_TOKENS = 160, 8
PROMPTS = ("Hello, world", "def f(x):\n    return")
LMI_COMPILE = (sys.executable, "-c", "from compiler.cli import main; raise SystemExit(main())")


@dataclass(frozen=True)
class Row:
    """One build. `settings` replace keys of the case's config.json; `note` names them."""

    case: str
    tp: int = 1
    note: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.case}{'+' if self.note else ''}{self.note}@{self.tp}"


def _rope(kind: str, **values: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **values}}


_LONGROPE = _rope("longrope", original_max_position_embeddings=64, short_factor=[1.0, 1.1, 1.3, 1.6, 2.0],
                  long_factor=[1.0, 1.9, 3.0, 4.5, 7.0])  # fmt: skip
ROWS = (
    Row("gpt_oss/yarn"), Row("deepseek_v2/groups", 2), Row("deepseek_v2/yarn"), Row("deepseek_v3", 2),
    Row("deepseek_v3/yarn"), Row("deepseek_v3/halves"), Row("llama4"), Row("llama4/all-sparse", 2),
    Row("falcon/two-norms", 2), Row("falcon/alibi"), Row("bloom", 2), Row("mpt/clipped"), Row("opt"), Row("phi"),
    Row("stablelm/parallel", 2), Row("smollm3"), Row("cohere2", 2), Row("olmo2", 2), Row("gpt_oss", 2),
    Row("phi3", 1, "longrope", _LONGROPE),
    Row("llama", 2, "dynamic", {"max_position_embeddings": 100, **_rope("dynamic", factor=4.0)}),
    Row("gemma2", 2), Row("gemma3/rope-linear"), Row("granite/biases"), Row("cohere/qk-norm"), Row("gpt_neox", 2),
    Row("qwen3_moe", 2),
)  # fmt: skip


@dataclass(frozen=True)
class Outcome:
    """Result of a row: `failed` has the command that did, and the end of what it printed."""

    row: Row
    seconds: float
    numerics: dict[str, Any] = field(default_factory=dict)
    failed: str = ""

    def __str__(self) -> str:
        if self.failed:
            return f"{self.row.name:28} FAILED {self.failed}"
        found = self.numerics
        agreement = f"cosine {found['cosine']:.5f}  top-1 {found['top1_agreement']:.3f}"
        rows = found["coverage"]["rows"]
        return f"{self.row.name:28} median KL {found['kl_median']:.2g}  {agreement}  rows {rows}  {self.seconds:.0f} s"


class _CommandError(Exception):
    """A command that failed, with the end of its output."""


def run(row: Row, folder: Path, max_batch: int) -> Outcome:
    """Build, verify and generate in `folder`."""
    began = time.monotonic()
    source, artifact = write_checkpoint(row.case, folder / "source", **row.settings), folder / "artifact"
    limits = ("--max-positions", str(POSITIONS), "--max-batch", str(max_batch))
    try:
        _command("build", "--model", str(source), "--tp", str(row.tp), *limits, "-o", str(artifact))
        numerics = json.loads(_command("verify", str(artifact), "--model", str(source)))["numerics"]
        options = ("--max-new-tokens", str(NEW_TOKENS), "--ignore-eos")
        answers = json.loads(_command("generate", str(artifact), *PROMPTS, *options))
    except _CommandError as failed:
        return Outcome(row, time.monotonic() - began, failed=str(failed))
    wrong = [answer for answer in answers if len(answer["tokens"]) != NEW_TOKENS]
    failed_answer = f"generate: expected {NEW_TOKENS} tokens; found {wrong}" if wrong or not answers else ""
    return Outcome(row, time.monotonic() - began, numerics, failed_answer)


def _command(*arguments: str) -> str:
    done = subprocess.run([*LMI_COMPILE, *arguments, "--json"], capture_output=True, text=True, check=False)
    if done.returncode:
        raise _CommandError(f"{arguments[0]}: exit code {done.returncode}: {done.stderr.strip().splitlines()[-1:]}")
    return done.stdout


def main() -> int:
    """Run rows and print a line for each; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.build_every_recipe", description="Build tiny checkpoints.")
    parser.add_argument("rows", nargs="*", metavar="ROW", help="Cases, or cases@tp [default: every row].")
    parser.add_argument("--max-batch", type=int, default=2, help="Rows per batch [default: 2].")
    options = parser.parse_args()
    rows = [row for row in ROWS if not options.rows or {row.name, row.case} & set(options.rows)]
    if not rows or not all(row.case in TINY for row in rows):
        parser.error(f"expected names of {', '.join(row.name for row in ROWS)}; found {options.rows}")
    failed = 0
    for row in rows:
        with tempfile.TemporaryDirectory() as scratch:
            outcome = run(row, Path(scratch), options.max_batch)
        failed += bool(outcome.failed)
        print(outcome, flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
