"""A program that stands for the command line of lmi-compile in tests of the matrix, and what it was asked."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from compiler.matrix.file import BuildEntry
from compiler.matrix.run import Destination
from compiler.matrix.state import MatrixRow

STAND_IN = '''
"""Stands for the command line: what it does is in the name of the build. Writes down what it was asked."""
import json, os, pathlib, signal, sys, time
sys.path.insert(0, {root!r})
words = sys.argv[1:]
value = lambda name: words[words.index(name) + 1] if name in words else None
with open({log!r}, "a") as log:
    log.write(json.dumps([time.monotonic(), *words]) + "\\n")
name = value("--name") or pathlib.Path(words[1]).name
if words[0] == "build" and "--until" in words:
    if "refused" in name:
        print("error: `tp` 3 cannot split it\\nsecond line\\n\\nhint: another", file=sys.stderr)
        sys.exit(4)
    source = pathlib.Path({source!r}).read_text()
    print(json.dumps({{"plan_digest": "sha256:plan", "source": source}}))
elif words[0] == "build":
    time.sleep(0.2)
    control = pathlib.Path({control!r})
    print(json.dumps({{"event": "begin", "stage": "convert"}}), file=sys.stderr, flush=True)
    while (control / f"hold-{{name}}").exists():
        time.sleep(0.02)
    once = control / f"once-{{name}}"
    if once.exists():
        code = int(once.read_text())
        once.unlink()
        print(f"error: once, with {{code}}\\n\\nhint: h", file=sys.stderr)
        os.kill(os.getpid(), -code) if code < 0 else sys.exit(code)
    if "fails" in name:
        print(json.dumps({{"event": "warning", "stage": "", "text": "w"}}), file=sys.stderr)
        print(json.dumps({{"error": {{"message": "it went wrong <&\\x1b[1m", "hint": "h"}}}}), file=sys.stderr)
        sys.exit(8)
    if "killed" in name:
        os.kill(os.getpid(), signal.SIGKILL)
    from benchmarks.testbed.artifacts import manifest, write
    made = manifest(name=name)
    write(pathlib.Path(value("--output")), made)
    source = pathlib.Path({source!r}).read_text()
    print(json.dumps({{"digest": made.digest, "plan_digest": "sha256:plan", "source": source}}))
elif words[:2] == ["matrix", "cell"]:
    from compiler.matrix.ledger import Ledger
    from compiler.matrix.worker import work
    sys.exit(work(Ledger(words[2]), words[3], beat=0.2).exit_code)
elif words[0] == "push":
    from compiler.registry.push import push
    push(pathlib.Path(words[1]), words[2], journal=pathlib.Path({control!r}) / "uploads" / name)
elif words[0] == "prewarm":
    print(json.dumps({{"answer": {{"text": "yes"}}}}))
elif words[0] == "scan" and "leaks" in name:
    print("error: a token", file=sys.stderr)
    sys.exit(4)
with open({log!r}, "a") as log:
    log.write(json.dumps([time.monotonic(), "done", *words]) + "\\n")
'''


class Matrix:
    def __init__(self, folder: Path) -> None:
        self.folder, self.log, self.source = folder, folder / "log", folder / "source"
        self.source.write_text("sha256:source")
        self.script = folder / "stand_in.py"
        places = {"root": Path(__file__).parents[2], "log": self.log, "source": self.source, "control": folder}
        self.script.write_text(STAND_IN.format(**{name: str(place) for name, place in places.items()}))
        self.program = (sys.executable, str(self.script))
        self.place = Destination(folder / "artifacts", program=self.program)

    def lines(self) -> list[list[Any]]:
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def commands(self) -> list[list[str]]:
        return [line[1:] for line in self.lines() if line[1] not in ("done", "matrix")]

    def builds(self, name: str) -> int:
        """How often a build of this name was begun."""
        return sum(words[0] == "build" and "--force" in words and name in words for words in self.commands())


def entry(name: str, **options: str) -> BuildEntry:
    return BuildEntry(name, tuple(sorted({"model": "m", "name": name, **options}.items())))


def states(rows: list[MatrixRow]) -> list[str]:
    return [row.state for row in rows]
