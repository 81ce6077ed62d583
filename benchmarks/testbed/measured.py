"""One command of the user's command line, measured: seconds and resident memory of each step."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_EVERY = 0.1
"""Seconds between two looks at the memory."""


@dataclass
class Run:
    """Outcome of a command. `seconds` of each step; `memory`: most resident bytes of all its processes in it, mapped
    files included; `result`: JSON on stdout; `error`: message and hint, "" where it succeeded.
    """

    code: int = 0
    total: float = 0.0
    seconds: dict[str, float] = field(default_factory=dict)
    memory: Counter[str] = field(default_factory=Counter)
    notes: dict[str, str] = field(default_factory=dict)
    result: Any = None
    error: str = ""


def lmi_compile(*arguments: str, cache: Path, threads: int) -> Run:
    """Run `lmi-compile ARGUMENTS --json` with the stage cache `cache`."""
    environment = {**os.environ, "LMI_COMPILE_CACHE": str(cache), "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-m", "compiler", *arguments, "--json"]
    run, stage, began = Run(), ["start"], time.monotonic()
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        over = threading.Event()

        def watch() -> None:
            while not over.wait(_EVERY):
                run.memory[stage[0]] = max(run.memory[stage[0]], _resident(process.pid))

        out: list[str] = []
        readers = [threading.Thread(target=watch), threading.Thread(target=lambda: out.extend(process.stdout or ()))]
        for reader in readers:
            reader.start()
        for line in process.stderr:
            _heard(line, run, stage)
        run.code = process.wait()
        over.set()
        for reader in readers:
            reader.join()
    run.total = time.monotonic() - began
    run.result = json.loads("".join(out)) if run.code == 0 else None
    return run


def _heard(line: str, run: Run, stage: list[str]) -> None:
    """Take up a line of stderr: an event, an error, or something else."""
    try:
        event = json.loads(line)
    except ValueError:
        print(line, end="", file=sys.stderr, flush=True)
        return
    if "error" in event:
        run.error = f"{event['error']['message']}\n{event['error']['hint']}"
    elif event["event"] == "begin":
        stage[0] = event["stage"]
    elif event["event"] == "end":
        run.seconds[event["stage"]] = event["seconds"]
        run.notes[event["stage"]] = event["note"]
        print(f"  {event['stage']}: {event['note']}, {event['seconds']:.1f} s", file=sys.stderr, flush=True)


def _resident(root: int) -> int:
    """Resident bytes of a process and its descendants; those that end meanwhile count as nothing."""
    parents: dict[int, list[int]] = {}
    pages: dict[int, int] = {}
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                behind_name = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            parents.setdefault(int(behind_name[1]), []).append(int(folder.name))
            pages[int(folder.name)] = int(behind_name[21])
    total, left = 0, [root]
    while left:
        pid = left.pop()
        total += pages.get(pid, 0)
        left += parents.get(pid, [])
    return total * os.sysconf("SC_PAGE_SIZE")
