"""Stand-in for `neuronx-cc`: checks its command line, parses the graph, and writes a file that says what it is.

What it does is in the file `mode` beside it: `ok`, `fail`, `flaky N` (exit code 70 N times), `hang`, or `empty`. Its
version ends in `+stand-in`, so that artifacts with its results are marked and cannot be published.
"""

from __future__ import annotations

import sys
from pathlib import Path

VERSION = "2.21.0.0+stand-in"
MARK = b"stand-in NEFF\n"

_PROGRAM = """#!{python}
import sys, time
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.targets.neuron.stand_in import main
sys.exit(main(sys.argv[1:], Path({folder!r})))
"""


def install(folder: Path, mode: str = "ok") -> Path:
    """Put the command into `folder`, for PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    root = str(Path(__file__).parents[3])
    command = folder / "neuronx-cc"
    command.write_text(_PROGRAM.format(python=sys.executable, root=root, folder=str(folder)))
    command.chmod(0o755)
    (folder / "mode").write_text(mode)
    return command


def calls(folder: Path) -> list[list[str]]:
    """Command lines of compilations up to now."""
    log = folder / "calls"
    return [line.split() for line in log.read_text().splitlines()] if log.exists() else []


def main(argv: list[str], folder: Path) -> int:
    """The command."""
    if argv == ["--version"]:
        print(f"NeuronX Compiler version {VERSION}\n\nPython version 3.11")
        return 0
    with (folder / "calls").open("a") as log:
        log.write(" ".join(argv) + "\n")
    command, framework, hlo, output, neff, *flags = argv
    expected = {"--model-type=transformer", "--auto-cast=none", "--verbose=35"}
    assert (command, framework, output) == ("compile", "--framework=XLA", "--output"), argv
    targets = [flag for flag in flags if flag.startswith("--target=")]
    assert len(targets) == 1, argv
    assert targets[0].partition("=")[2] in ("inf2", "trn1", "trn1n", "trn2"), argv
    lnc = ["--lnc=2"] if targets == ["--target=trn2"] else []
    assert {*flags} == {*expected, *targets, *lnc}, argv
    name, computations = parse_module(Path(hlo).read_bytes())
    print(f"{name}: {computations} computations")
    mode, _, count = (folder / "mode").read_text().partition(" ")
    if mode == "fail":
        print("ERROR: hlo2penguin: unsupported operation", file=sys.stderr)
        return 1
    if mode == "hang":
        import time

        time.sleep(300)
    if mode == "flaky" and sum(1 for call in calls(folder) if hlo in call) <= int(count):
        print("INTERNAL: the backend ended unexpectedly", file=sys.stderr)
        return 70
    Path(neff).write_bytes(b"" if mode == "empty" else MARK + name.encode())
    return 0


def parse_module(data: bytes) -> tuple[str, int]:
    """Name and number of computations of a serialized HloModuleProto (fields 1 and 3), every byte of which is read."""
    fields = list(_fields(data))
    names = [value for number, value in fields if number == 1]
    computations = [value for number, value in fields if number == 3]
    assert len(names) == 1, "expected one module"
    assert isinstance(names[0], bytes), "a module's name is text"
    assert computations, "expected computations"
    return names[0].decode(), len(computations)


def _fields(data: bytes) -> list[tuple[int, int | bytes]]:
    found: list[tuple[int, int | bytes]] = []
    place = 0

    def varint() -> int:
        nonlocal place
        value, shift = 0, 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7

    while place < len(data):
        tag = varint()
        number, kind = tag >> 3, tag & 7
        assert number, "field numbers begin at 1"
        if kind == 0:
            found.append((number, varint()))
        else:
            size = {1: 8, 5: 4}.get(kind) or varint()
            assert kind in (1, 2, 5), f"wire type {kind}"
            assert place + size <= len(data), "the message is cut off"
            found.append((number, data[place : place + size]))
            place += size
    return found
