"""`build-engines.sh`: the rest of a build from a verified checkpoint, for a host or an image with the builder.

It runs `trtllm-build` if that is on PATH, or itself inside the LMI image (`--docker`), and makes the same artifact as
`lmi-compile build` on that host.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from compiler.targets.trtllm.command import CHECKPOINT, COMMAND, ENGINES, BuilderFlag
from compiler.targets.trtllm.host import HOST, WRITE

SCRIPT = "build-engines.sh"


def script(flags: Sequence[BuilderFlag], image: str | None) -> bytes:
    """Bytes of the script. `image`: image of the container to build in, None if no published one has the version."""
    fixed = [part for flag in flags if not flag.optional for part in (flag.name, flag.value)]
    asks = "\n".join(f"    add {flag.name} {shlex.quote(flag.value)}" for flag in flags if flag.optional)
    line = shlex.join([COMMAND, "--checkpoint_dir", CHECKPOINT, "--output_dir", f"{ENGINES}.part", *fixed])
    docker = _DOCKER.format(image=shlex.quote(image)) if image else _NO_IMAGE
    text = _TEXT.format(command=COMMAND, engines=ENGINES, docker=docker, line=line, asks=asks, write=WRITE, host=HOST)
    return text.encode()


_NO_IMAGE = """\
    if [ -z "${IMAGE:-}" ]; then
        echo "no published LMI image carries this TensorRT-LLM: name one with IMAGE=..." >&2
        exit 6
    fi
    image=$IMAGE"""

_DOCKER = """\
    image=${{IMAGE:-{image}}}"""

_TEXT = """\
#!/bin/sh
# Builds the engines of this checkpoint. Needs a GPU of the kind that will serve them.
#
#   ./build-engines.sh [--workers N]             where {command} is on PATH
#   ./build-engines.sh --docker [--workers N]    in the LMI image (IMAGE=... names another)
set -eu
cd -- "$(dirname -- "$0")"
if [ "${{1:-}}" = --docker ]; then
    shift
{docker}
    docker run --rm --gpus all --ipc host --user "$(id -u):$(id -g)" -e HOME=/tmp \\
        -v "$PWD:/artifact" -w /artifact --entrypoint sh "$image" ./build-engines.sh "$@"
elif command -v {command} >/dev/null 2>&1; then
    rm -rf {engines}.part
    known=$({command} --help 2>&1)
    optional=""
    add() {{
        case $known in *"$1"*) optional="$optional $1 $2" ;; esac
    }}
{asks}
    # shellcheck disable=SC2086
    {line} $optional "$@"
    {write} >{engines}.part/{host}
    rm -rf {engines}
    mv {engines}.part {engines}
else
    echo "{command} is not on PATH: run this in an image with TensorRT-LLM, or with --docker" >&2
    exit 6
fi
if command -v lmi-compile >/dev/null 2>&1; then
    exec lmi-compile package "$PWD"
fi
echo "engines are in $PWD/{engines}; make the artifact of them, on any machine: lmi-compile package $PWD" >&2
"""
