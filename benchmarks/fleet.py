"""Fleets of builds: tiny cells with injected faults, and the arithmetic of a large fleet.

    python -m benchmarks.fleet run [--cells 24] [--workers 4] [--faults 10] [--seed 0]
    python -m benchmarks.fleet simulate [--cells 1000] [--machines 64] [--seed 0]

`run`: the cells are built once quietly and one by one, and once by a driver with `--workers` local workers, whose
workers are killed (SIGKILL) at random moments, as is the driver, which is then started again. All artifacts must be
equal to the quiet ones, byte by byte, and no cell may be built more often than it was lost. Prints the time of the
driver and worker for a cell beside that of its commands.

`simulate`: assumptions below, no machine. Prints hours, requests, bytes, and what bounds the time.
"""

from __future__ import annotations

import argparse
import heapq
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from benchmarks.testbed.artifacts import content
from benchmarks.tinyllama import ROOT, machine
from compiler.matrix.jobs import read_job
from compiler.matrix.ledger import BEAT, Ledger, ledger_uri
from compiler.matrix.state import read_record
from compiler.storage.objects.flow import PART


@dataclass(frozen=True)
class Assumptions:
    """Assumptions of the simulation. Bytes, seconds, bytes a second; `interruptions`: of a machine in an hour."""

    checkpoint: float = 140e9
    """70 B parameters in bfloat16."""
    artifact: float = 140e9
    fetch: float = 2.0e9
    """From S3 to the disk of a machine; what disk and hashes of several cores take."""
    convert: float = 1.0e9
    compile: float = 1800.0
    push: float = 1.0e9
    start: float = 300.0
    """Until an instance has the image."""
    interruptions: float = 0.05
    resumed: float = 0.5
    """Part of an interrupted cell that its checkpoint saves."""
    poll: float = 15.0


def simulate(cells: int, machines: int, seed: int) -> None:
    """Cells in a queue before machines; an interrupted cell goes back to the queue with the rest of its work."""
    known, source = Assumptions(), random.Random(seed)
    steps = {
        "start": known.start,
        "fetch": known.checkpoint / known.fetch,
        "convert": known.checkpoint / known.convert,
        "compile": known.compile,
        "push": known.artifact / known.push,
    }
    whole = sum(steps.values())
    free = [0.0] * machines
    queue, busy, lost, end = [whole] * cells, 0.0, 0, 0.0
    while queue:
        work, begin = queue.pop(0), heapq.heappop(free)
        until = source.expovariate(known.interruptions / 3600)
        took = min(work, until)
        if took < work:
            lost += 1
            queue.append(known.start + (work - known.start) - known.resumed * max(took - known.start, 0.0))
        busy += took
        end = max(end, begin + took)
        heapq.heappush(free, begin + took)
    gets, puts = cells * known.checkpoint / PART, cells * known.artifact / PART
    beats = 2 * busy / BEAT
    print(f"{cells} cells x 70 B on {machines} machines: {known}")
    for name, took in steps.items():
        print(f"  {name:<8} {took:7.0f} s a cell, {100 * took / whole:4.1f} % of the time")
    print(f"{end / 3600:.1f} h, {busy / 3600:.0f} machine-hours, {lost} interruptions")
    print(
        f"requests: {gets / 1e6:.1f} M GET, {puts / 1e6:.1f} M PUT of parts, {beats / 1e6:.2f} M PUT of claims and logs"
    )
    print(f"bytes: {cells * known.checkpoint / 1e12:.0f} TB read, {cells * known.artifact / 1e12:.0f} TB written")
    print(f"states asked of the engine: {machines / known.poll:.1f} a second, while all machines are busy")
    print(f"bound by: {max(steps, key=lambda name: steps[name])}")


def command(folder: Path, workers: int) -> list[str]:
    places = ["--file", str(folder / "builds.toml"), "--output", str(folder / "artifacts")]
    places += ["--store", f"file://{folder}/store", "--max-parallel", str(workers), "--json"]
    return [sys.executable, "-m", "compiler", "matrix", "build", *places]


def begin(folder: Path, workers: int) -> subprocess.Popen[bytes]:
    """A driver."""
    line = command(folder, workers)
    return subprocess.Popen(line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def run(cells: int, workers: int, faults: int, seed: int) -> None:
    print(machine())
    with tempfile.TemporaryDirectory() as name:
        quiet, noisy, source = Path(name) / "quiet", Path(name) / "noisy", random.Random(seed)
        model = write_model(Path(name) / "model")
        names = [f"cell-{number:02}" for number in range(cells)]
        entries = [
            f'[[build]]\nname = "{one}"\nmodel = "{model}"\ntarget = "checkpoint"\nmax-positions = {64 + number}\n'
            for number, one in enumerate(names)
        ]
        for folder in (quiet, noisy):
            folder.mkdir()
            (folder / "builds.toml").write_text("[fleet]\ncpus = 0.25\n" + "".join(entries))
        began = time.monotonic()
        subprocess.run(command(quiet, 1), cwd=ROOT, check=True, capture_output=True)
        alone = time.monotonic() - began
        driver, killed = begin(noisy, workers), 0
        drivers = max(faults // 5, 1)
        lost: list[str] = []
        while killed < faults:
            time.sleep(source.uniform(0.5, 2.0))
            if driver.poll() is not None:
                break
            if killed % 5 == 4 and drivers:
                drivers -= 1
                driver.kill()
                driver.wait()
                driver = begin(noisy, workers)
                killed += 1
                continue
            running = [(one, job) for one in names if (job := read_job(noisy / "artifacts", one)) is not None]
            if running:
                one, job = source.choice(running)
                with suppress(ProcessLookupError):
                    os.kill(int(job.id.partition("-")[0]), signal.SIGKILL)
                    lost.append(one)
                    killed += 1
        code = driver.wait()
        attempts = built(noisy)
        for one in names:
            assert content(quiet / "artifacts" / one) == content(noisy / "artifacts" / one), one
            assert attempts.get(one, 0) <= 1 + lost.count(one), (one, attempts, lost)
        commands = sum((record.seconds for one in names if (record := read_record(quiet / "artifacts", one))), 0.0)
        print(f"{cells} cells, {killed} kills ({len(lost)} workers, {killed - len(lost)} drivers), last driver: {code}")
        print(f"equal artifacts: {cells} of {cells}; built: {sum(attempts.values())} times")
        print(f"quiet, one by one: {alone:.1f} s, of which attempts {commands:.1f} s")


def built(folder: Path) -> dict[str, int]:
    """Attempts by cell, in the ledger, that ended with a new artifact."""
    ledger, found = Ledger(ledger_uri(folder / "artifacts", f"file://{folder}/store")), dict[str, int]()
    for item in ledger.store.walk("results/"):
        row = json.loads(ledger.store.read(item.key)[0])
        if row["state"] == "built":
            found[row["name"]] = found.get(row["name"], 0) + 1
    return found


def write_model(folder: Path) -> Path:
    """Tiny random Llama with a tokenizer."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from benchmarks.testbed.text import byte_tokenizer, save_tokenizer

    shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = AutoConfig.for_model("llama", vocab_size=259, max_position_embeddings=256, **shape)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    save_tokenizer(byte_tokenizer(), folder, max_length=256)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("run", "simulate"))
    parser.add_argument("--cells", type=int)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--faults", type=int, default=10)
    parser.add_argument("--machines", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.what == "run":
        run(options.cells or 24, options.workers, options.faults, options.seed)
    else:
        simulate(options.cells or 1000, options.machines, options.seed)


if __name__ == "__main__":
    main()
