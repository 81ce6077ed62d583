"""Fleets of builds: tiny cells with injected faults, and the arithmetic of a large fleet.

    python -m benchmarks.fleet run [--on local|ray] [--cells 24] [--workers 4] [--faults 10] [--seed 0]
    python -m benchmarks.fleet simulate [--cells 1000] [--machines 64] [--seed 0]

`run`: the cells are built quietly, one after the other, and then by a driver with `--workers` workers, on an S3 server
(moto) behind a proxy. Faults at random moments, in a random order: half are workers that are killed (SIGKILL), a fifth
drivers that are killed and begun again, the rest outages of the store, in which each request fails for some seconds.
All artifacts must be equal to the quiet ones, byte by byte, and no cell may be built again unless it was lost.

`simulate`: fleet_arithmetic.py.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.fleet_arithmetic import simulate
from benchmarks.testbed import servers
from benchmarks.testbed.artifacts import content
from benchmarks.testbed.faults import Proxy, Request, proxy
from benchmarks.testbed.ray_head import ray_head
from benchmarks.tinyllama import ROOT, machine
from compiler.matrix.jobs import read_job
from compiler.matrix.ledger import Ledger, ledger_uri
from compiler.matrix.state import read_record

OUTAGE = 6.0
"""Seconds in which each request to the store fails."""
_REFUSALS = ("500", "503", "slow-down", "lost", "reset")
_STARTS = 12
"""Most drivers of a run: a driver ends where the store does not answer while it plans."""


@dataclass
class Place:
    """One run of the matrix. `on`: engine."""

    folder: Path
    store: str
    on: str
    workers: int
    drivers: int = 0

    @property
    def output(self) -> Path:
        return self.folder / "artifacts"

    def begin(self) -> subprocess.Popen[bytes]:
        """A driver. Its events are at the end of `events`; its rows, when it ends, in `rows`."""
        self.drivers += 1
        line = [sys.executable, "-m", "compiler", "matrix", "build", "--file", str(self.folder / "builds.toml")]
        line += ["--output", str(self.output), "--store", self.store, "--on", self.on, "--json"]
        line += ["--max-parallel", str(self.workers)]
        with (self.folder / "events").open("ab") as events, (self.folder / "rows").open("wb") as rows:
            return subprocess.Popen(line, cwd=ROOT, stdout=rows, stderr=events)


@dataclass
class Faults:
    """Faults in the order of `plan`. `killed`: workers by cell. `until`: end of the running outage."""

    plan: list[str]
    source: random.Random
    between: Proxy
    killed: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    until: float = 0.0

    def of_request(self, request: Request) -> str | None:
        del request
        return self.source.choice(_REFUSALS) if time.monotonic() < self.until else None

    def inject(self, place: Place, names: list[str], driver: subprocess.Popen[bytes]) -> subprocess.Popen[bytes]:
        """The next fault, where it is possible now. The driver that runs then."""
        kind = self.plan[-1]
        if kind == "store":
            self.until = time.monotonic() + OUTAGE
        elif kind == "driver":
            driver.kill()
            driver.wait()
            driver = place.begin()
        else:
            jobs = [(name, job.token) for name in names if (job := read_job(place.output, name))]
            workers = [(name, pid) for name, token in jobs if (pid := worker_of(token))]
            if not workers:
                return driver
            name, pid = self.source.choice(workers)
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                self.killed[name] += 1
        self.done[self.plan.pop()] += 1
        return driver


def run(cells: int, workers: int, faults: int, seed: int, on: str) -> None:
    print(machine(), flush=True)
    source = random.Random(seed)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        names = [f"cell-{number:02}" for number in range(cells)]
        quiet = Place(Path(name) / "quiet", f"file://{name}/store", "local", 1)
        noisy = Place(Path(name) / "noisy", f"s3://{servers.BUCKET}/fleet", on, workers)
        write_builds([quiet, noisy], names, write_model(Path(name) / "model"))
        quiet_run(quiet, names)
        endpoint = stack.enter_context(servers.moto())
        between = stack.enter_context(proxy(endpoint))
        os.environ.update(servers.environment(between.url, Path(name)))
        make_bucket()
        if on == "ray":
            os.environ["RAY_ADDRESS"] = stack.enter_context(ray_head(workers))
        counts = {"worker": faults // 2, "driver": faults // 5, "store": faults - faults // 2 - faults // 5}
        kinds = [kind for kind, count in counts.items() for _ in range(count)]
        injected = Faults(source.sample(kinds, len(kinds)), source, between)
        between.faults = injected.of_request
        began = time.monotonic()
        noisy_run(noisy, names, injected)
        took = time.monotonic() - began
        print(f"noisy, {workers} workers of engine {on}: {took:.0f} s, {noisy.drivers} drivers", flush=True)
        report(quiet, noisy, names, injected)


def quiet_run(place: Place, names: list[str]) -> None:
    """Build one cell after the other, and print the time that driver and worker add to the commands of a cell."""
    driver, used, first = place.begin(), 0.0, 0.0
    while driver.poll() is None:
        with suppress(OSError):
            fields = Path(f"/proc/{driver.pid}/stat").read_text().rpartition(")")[2].split()
            used = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        if not first and any(read_job(place.output, name) for name in names):
            first = used
        time.sleep(0.1)
    assert driver.returncode == 0, (place.folder / "events").read_text()
    events = [json.loads(line) for line in (place.folder / "events").read_text().splitlines() if line.startswith("{")]
    took = {event["stage"]: float(event["seconds"]) for event in events if event["event"] == "end"}
    commands = sum(row["seconds"] for row in results(place))
    jobs = sum(record.seconds for name in names if (record := read_record(place.output, name)))
    plans, builds = took["plan"], took["build"]
    print(f"quiet, one by one: plans {plans:.1f} s, builds {builds:.1f} s, of which commands {commands:.1f} s")
    each = [part / len(names) for part in (commands, jobs - commands, builds - jobs, 1000 * (used - first))]
    print("a cell: {:.2f} s of commands, {:.2f} s of its worker and of polls, {:.2f} s of the driver".format(*each))
    print(f"CPU of the driver for a cell: {each[-1]:.0f} ms", flush=True)


def noisy_run(place: Place, names: list[str], faults: Faults) -> None:
    driver = place.begin()
    while driver.poll() is None or driver.returncode != 0:
        if driver.returncode not in (None, 0):
            assert place.drivers < _STARTS, (place.folder / "events").read_text()[-4000:]
            driver = place.begin()
        time.sleep(faults.source.uniform(2.0, 6.0))
        started = any(read_job(place.output, name) for name in names)
        if faults.plan and started and time.monotonic() > faults.until and driver.poll() is None:
            driver = faults.inject(place, names, driver)


def report(quiet: Place, noisy: Place, names: list[str], faults: Faults) -> None:
    from compiler.registry.pull import pull

    rows = results(noisy)
    built = Counter(row["name"] for row in rows if row["state"] == "built")
    refused = Counter(row["name"] for row in rows if row["state"] == "failed")
    classes = Counter(row["failure"] for row in rows if row["state"] == "failed")
    for row in json.loads((noisy.folder / "rows").read_text()):
        name = row["name"]
        pull(f"{noisy.store}/{name}@{row['digest']}", noisy.folder / "pulled" / name)
        assert content(quiet.output / name) == content(noisy.folder / "pulled" / name), name
        assert built[name] <= 1, (name, built)
    broken = faults.between.broken
    print(f"faults: {dict(faults.done)}; requests that failed: {sum(broken.values())}, {dict(broken)}")
    print(f"equal artifacts: {len(names)} of {len(names)}; attempts that built one: {sum(built.values())}")
    print(f"killed workers: {dict(faults.killed)}; attempts that failed: {dict(classes)} of {dict(refused)}")
    begun = Counter(json.loads(data)["name"] for data in ledger_of(noisy, "cells/"))
    again = {name: count for name, count in begun.items() if count > 1}
    lost = {*refused, *faults.killed}
    print(f"attempts: {sum(begun.values())}; more than one: {again}; not lost: {sorted(again.keys() - lost)}")


def worker_of(token: str) -> int:
    """Process that makes an attempt; 0 for none."""
    for line in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            words = line.read_bytes().decode(errors="replace").split("\0")
            if token in words and "guard.py" not in " ".join(words[:5]):
                return int(line.parent.name)
    return 0


def ledger_of(place: Place, prefix: str) -> list[bytes]:
    store = Ledger(ledger_uri(place.output, place.store)).store
    return [store.read(item.key)[0] for item in store.walk(prefix)]


def results(place: Place) -> list[dict[str, Any]]:
    return [json.loads(data) for data in ledger_of(place, "results/")]


def make_bucket() -> None:
    import boto3

    boto3.client("s3").create_bucket(Bucket=servers.BUCKET)


def write_builds(places: list[Place], names: list[str], model: Path) -> None:
    entries = [
        f'[[build]]\nname = "{one}"\nmodel = "{model}"\ntarget = "checkpoint"\nmax-positions = {64 + number}\n'
        for number, one in enumerate(names)
    ]
    command = json.dumps([sys.executable, "-m", "compiler"])
    for place in places:
        place.folder.mkdir()
        (place.folder / "builds.toml").write_text(f"[fleet]\ncpus = 1\ncommand = {command}\n" + "".join(entries))


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
    parser.add_argument("--on", choices=("local", "ray"), default="local")
    parser.add_argument("--cells", type=int)
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--faults", type=int, default=10)
    parser.add_argument("--machines", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    if options.what == "run":
        run(options.cells or 24, options.workers, options.faults, options.seed, options.on)
    else:
        simulate(options.cells or 1000, options.machines, options.seed)


if __name__ == "__main__":
    main()
