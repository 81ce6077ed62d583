"""Time from a fresh process to the first tokens: an artifact against eager transformers and torch.compile.

    python -m benchmarks.start --work DIR [--runs 5] [--cold 2] [--json]
    python -m benchmarks.start --work DIR --checkpoint CHECKPOINT --artifact ARTIFACT --tokens 1

The same model for all, a random 22-layer TinyLlama or the given one; 32 tokens of prompt, page cache warm, interpreter
start included. `compile cold` begins with an empty inductor cache, `compile warm` with the cache of an earlier run.
`--json`: medians of the first token by mode, which `lmi-compile report --start` reads.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

from benchmarks.tinyllama import ROOT, machine, prepared


def first_tokens(mode: str, folder: Path, cache: Path, tokens: int) -> tuple[float, ...]:
    """Seconds from the start of the process to its first and to its last of one or two tokens."""
    begun = time.monotonic()
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.one", mode, str(folder), "--prompt=32", f"--new={tokens}", "--rounds=1"],
        check=True, capture_output=True, text=True, cwd=ROOT, env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache)},
    )  # fmt: skip
    answer = json.loads(run.stdout.splitlines()[-1])
    found = (answer["first"] - begun, answer["last"] - begun)[:tokens]
    print(f"{mode}: {', '.join(f'{seconds:.2f} s' for seconds in found)}", file=sys.stderr, flush=True)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, help="another model than a random TinyLlama; with --artifact")
    parser.add_argument("--artifact", type=Path, help="the artifact of --checkpoint")
    parser.add_argument("--tokens", type=int, choices=(1, 2), default=2, help="tokens whose times are taken")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--cold", type=int, default=2, help="runs of `compile cold`, which takes minutes")
    parser.add_argument("--json", action="store_true", help="print medians of the first token by mode")
    options = parser.parse_args()
    if (options.checkpoint is None) != (options.artifact is None):
        parser.error("--checkpoint and --artifact go together")
    checkpoint, artifact = (
        (options.checkpoint.absolute(), options.artifact.absolute()) if options.checkpoint else prepared(options.work)
    )
    cache = options.work.absolute() / "inductor-start"
    found: dict[str, list[tuple[float, ...]]] = {
        mode: [] for mode in ("artifact", "eager", "compile warm", "compile cold")
    }

    def take(mode: str, folder: Path) -> None:
        found[mode].append(first_tokens(mode.split()[0], folder, cache, options.tokens))

    for _ in range(options.cold):
        shutil.rmtree(cache, ignore_errors=True)
        take("compile cold", checkpoint)
    for _ in range(options.runs):
        take("artifact", artifact)
        take("eager", checkpoint)
        take("compile warm", checkpoint)
    if options.json:
        print(json.dumps({mode: statistics.median(run[0] for run in runs) for mode, runs in found.items() if runs}))
        return
    print(machine())
    columns = "".join(f" {token} token, s | it / ours |" for token in ("first", "second")[: options.tokens])
    print(f"| mode |{columns} all first |")
    print(f"|{'---|' * (2 * options.tokens + 2)}")
    ours = [statistics.median(column) for column in zip(*found["artifact"], strict=True)]
    for mode, runs in found.items():
        if not runs:  # `--cold 0`
            continue
        medians = [statistics.median(column) for column in zip(*runs, strict=True)]
        cells = "".join(f" {median:.2f} | {median / own:.1f} |" for median, own in zip(medians, ours, strict=True))
        print(f"| {mode} |{cells} {' '.join(f'{run[0]:.2f}' for run in runs)} |")


if __name__ == "__main__":
    main()
