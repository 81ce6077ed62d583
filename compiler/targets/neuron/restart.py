"""Proof that a fresh process compiles nothing: a driver's call once more, by `restart.sh`, from the cache it left.

The second process has another HOME, temporary folder and working folder, a copy of the compile cache, and a guard in
the place of neuronx-cc, which notes each run and fails. It is a hit if the call ends well, its cache has no new file,
and the guard noted nothing. Log lines are not asked: users report executables that were found, and compiled anew.

    guard/neuronx-cc          first on PATH; `--version` goes to the real one, whose version names a folder of the cache
    guard/sitecustomize.py    audit hook of every Python process: runs of the compiler by its full path

NxD's folder of intermediate files, whose path is in the key, is put aside meanwhile: nothing can be found in it.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass

from compiler.targets.neuron.neuronx import COMMAND

SCRIPT, RECORD, CACHE = "restart.sh", "restart.txt", "compile-cache"
"""The script, what it notes, and the folder of the cache, all in the folder of the call."""
RUNS, REAL = "LMI_COMPILER_RUNS", "LMI_REAL_COMPILER"
"""Variables of the guard: file that gets its runs, and path of the real compiler ("" = none)."""
GUARD: Mapping[str, str] = {
    COMMAND: f"""\
#!/bin/sh
case "${{1:-}}" in
--version | list-operators) exec "${REAL}" "$@" ;;
esac
echo "$*" >>"${RUNS}"
echo "this start was to compile nothing" >&2
exit 86
""",
    "sitecustomize.py": f'''\
"""Notes runs of {COMMAND} by its full path, and refuses them."""
import os
import sys


def hear(event, arguments):
    if event not in ("subprocess.Popen", "os.posix_spawn", "os.exec"):
        return
    words = [os.fsdecode(word) for word in arguments[1] or ()] or [str(arguments[0])]
    program = os.path.realpath(os.fsdecode(arguments[0] or words[0]))
    real = os.environ.get("{REAL}", "")
    if real and program == os.path.realpath(real) and words[1:2] == ["compile"]:
        with open(os.environ["{RUNS}"], "a") as log:
            log.write(" ".join(words[1:]) + "\\n")
        raise RuntimeError("this start was to compile nothing")


sys.addaudithook(hear)
''',
}

_TEXT = """\
#!/bin/sh
# Runs the call once more in a fresh process, and notes in {record} what it compiled: nothing is expected.
set -eu
cd -- "$(dirname -- "$0")"
rm -rf again
mkdir -p again/home again/tmp again/guard {cache}
{guard}
chmod +x again/guard/{command}
cp -R {cache} again/{cache}
ln -s ../model again/model
{files}
cached() {{ find {cache} -type f ! -name '*.lock' | LC_ALL=C sort; }}
cached >again/before
work=${{BASE_COMPILE_WORK_DIR:-}}
if [ -n "$work" ] && [ -e "$work" ]; then mv "$work" "$work.first"; fi
export {real}="$(command -v {command} || echo /nonexistent/{command})" {runs}="$PWD/again/runs"
: >again/runs
code=0
(
    cd again
    export PYTHONUSERBASE="${{PYTHONUSERBASE:-${{HOME:-/root}}/.local}}"
    export HOME="$PWD/home" TMPDIR="$PWD/tmp" PATH="$PWD/guard:$PATH"
    export PYTHONPATH="$PWD/guard${{PYTHONPATH:+:$PYTHONPATH}}"
    exec {call}
) >again/log 2>&1 || code=$?
if [ -n "$work" ] && [ -e "$work.first" ]; then rm -rf "$work"; mv "$work.first" "$work"; fi
(cd again && cached) >again/after
{{
    echo "exit $code"
    echo "cached $(grep -c '\\.neff$' again/before || true)"
    sed 's/^/run /' again/runs
    comm -13 again/before again/after | sed 's/^/new /'
}} >{record}
[ "$code" -eq 0 ] || tail -n 20 again/log >&2
rm -rf again
"""


def restart_script(argv: tuple[str, ...], files: tuple[str, ...]) -> bytes:
    """Text of SCRIPT for a call. `files`: those that it reads, besides the model."""
    guard = "\n".join(f"cat >again/guard/{name} <<'GUARD'\n{text}GUARD" for name, text in GUARD.items())
    text = _TEXT.format(
        record=RECORD, cache=CACHE, guard=guard, command=COMMAND, real=REAL, runs=RUNS, call=shlex.join(argv),
        files="\n".join(shlex.join(["cp", name, "again/"]) for name in files),
    )  # fmt: skip
    return text.encode()


@dataclass(frozen=True)
class Restart:
    """Record of a second process. `code`: its exit code; `cached`: executables in the cache; `runs`: command lines of
    the compiler; `new`: files that are new in the cache.
    """

    code: int
    cached: int
    runs: tuple[str, ...]
    new: tuple[str, ...]

    @property
    def reasons(self) -> tuple[str, ...]:
        """Reasons why it was no hit, () for a hit."""
        return (
            *([f"{len(self.runs)} run(s) of {COMMAND}, such as `{self.runs[0]}`"] if self.runs else []),
            *([f"{len(self.new)} new file(s) in the compile cache, such as {self.new[0]}"] if self.new else []),
            *([f"it ended with exit code {self.code}"] if self.code else []),
        )

    @property
    def text(self) -> str:
        """Line of `inspect` and of the manifest."""
        if self.reasons:
            return "a fresh process compiles again: " + "; ".join(self.reasons)
        return f"a fresh process compiled nothing ({self.cached} executables in the cache)"


def restart_of(text: str) -> Restart:
    """Restart from the text of RECORD. Raises ValueError."""
    lines = [line.partition(" ")[::2] for line in text.splitlines()]
    values = dict(lines)
    return Restart(
        int(values.get("exit", "1")),
        int(values.get("cached", "0")),
        tuple(rest for word, rest in lines if word == "run"),
        tuple(rest for word, rest in lines if word == "new"),
    )
