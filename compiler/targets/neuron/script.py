"""`compile-neuron.sh`: the rest of a build, where neuronx-cc or the driver's library is.

It compiles what is not compiled yet, or runs the driver's call, up to three times: compiled graphs stay in the cache.
`lmi-compile package` checks the result and makes the artifact. It was never run with the real software.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

from compiler.targets.neuron.drivers.driver import MODEL, PINNED, RESULT, files_of
from compiler.targets.neuron.neuronx import COMMAND, FLAKY, RETRIES, compiler_argv
from compiler.targets.neuron.restart import SCRIPT as RESTART

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from compiler.targets.neuron.drivers.driver import VendorDriver, VendorRun
    from compiler.targets.neuron.platforms import Platform

SCRIPT = "compile-neuron.sh"
COMPILED = "compiled"
"""Folder that it writes to."""
VERSION = "version"
"""Ending of the file with the version of the compiler of a graph."""

_HEAD = """\
#!/bin/sh
# {what}
set -eu
cd -- "$(dirname -- "$0")"
mkdir -p {out}
"""
_END = """\
if command -v lmi-compile >/dev/null 2>&1; then
    exec lmi-compile package "$PWD"
fi
echo "the result is in $PWD/{out}; make the artifact of it, on any machine: lmi-compile package $PWD" >&2
"""


def graph_script(names: Sequence[str], platform: Platform) -> bytes:
    """Script that compiles the graphs `names` of the folder graphs/."""
    lines = [
        _HEAD.format(what="Compiles the graphs of this artifact with neuronx-cc.", out=COMPILED),
        f"if ! command -v {COMMAND} >/dev/null 2>&1; then",
        f'    echo "{COMMAND} is not on PATH: run this in an image of AWS Neuron, or where it is installed" >&2',
        "    exit 6",
        "fi",
        f"{COMMAND} --version >{COMPILED}/{VERSION} 2>&1",
        "compile() {",
        "    output=$1",
        "    shift",
        '    [ -s "$output" ] && return 0',
        "    tries=0",
        "    while :; do",
        "        code=0",
        '        "$@" || code=$?',
        f'        [ "$code" -eq {FLAKY} ] && [ "$tries" -lt {RETRIES} ] || break',
        "        tries=$((tries + 1))",
        "    done",
        '    [ "$code" -eq 0 ] && [ -s "$output.part" ] || {',
        f'        echo "{COMMAND} failed on $output with exit code $code; run this again for the rest" >&2',
        "        exit 6",
        "    }",
        '    mv "$output.part" "$output"',
        "}",
    ]
    for name in names:
        neff = f"{COMPILED}/{name}.neff"
        argv = compiler_argv(f"graphs/{name}.hlo_module.pb", f"{neff}.part", platform)
        lines.append(shlex.join(["compile", neff, *argv]))
    return ("\n".join([*lines, _END.format(out=COMPILED)])).encode()


def driver_script(driver: VendorDriver, run: VendorRun, model: str) -> bytes:
    """Script that runs a driver's call. `model`: id at a hub, or "" for the folder in MODEL."""
    clear = "|".join(PINNED)
    exports = [
        f"for name in $(env | sed -nE 's/^(({clear})[A-Z0-9_]*)=.*/\\1/p'); do unset \"$name\"; done",
    ]
    exports += [f"export {name}={shlex.quote(value)}" for name, value in run.environment.items()]
    hub = shlex.quote(model)
    lines = [
        _HEAD.format(what=f"Compiles the model with {driver.package} (SDK {driver.sdk}).", out=COMPILED),
        f"cd {COMPILED}",
        f"model=${{MODEL:-{hub}}}",
        f'if [ -d "$model" ]; then ln -sfn "$model" {MODEL}',
        f'elif [ -n "$model" ] && [ ! -e {MODEL} ]; then hf download "$model" --local-dir {MODEL}',
        f"elif [ ! -e {MODEL} ]; then",
        '    echo "name the folder of the model with MODEL=..." >&2',
        "    exit 6",
        "fi",
        *(f"cp ../{name} ." for name in files_of(run)),
        *exports,
        "tries=0",
        f"until {shlex.join(run.argv)}; do",
        "    tries=$((tries + 1))",
        f'    [ "$tries" -le {RETRIES} ] || exit 6',
        "done",
        f"sh {RESTART}",
        "cd ..",
    ]
    return ("\n".join([*lines, _END.format(out=COMPILED)])).encode()


def result_folder(driver: str) -> str:
    """Folder of the result inside COMPILED: "" for executables of graphs."""
    return "" if driver == "graph" else RESULT


def environment_text(environment: Mapping[str, str]) -> bytes:
    """File for `docker run --env-file`."""
    return "".join(f"{name}={value}\n" for name, value in sorted(environment.items())).encode()
