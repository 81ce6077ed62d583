"""Arithmetic of a large fleet: hours, requests, bytes, bound of the time. No machine; `benchmarks.fleet simulate`."""

from __future__ import annotations

import heapq
import random
from dataclasses import dataclass

from compiler.matrix.ledger import BEAT
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
