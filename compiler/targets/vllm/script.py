"""`bake.sh`: the rest of a build from verified shards, where the vLLM is that will serve them.

It runs finish.py where vLLM and this program are installed, or itself in the image (`--docker`). The artifact's folder
is mounted at the path that serves, since the path is in the key of the cache. No container was run with it.
"""

from __future__ import annotations

import shlex

from compiler.targets.vllm.serving import MODEL_PATH

SCRIPT = "bake.sh"
COMPILED = "compiled"
"""Folder that finish.py leaves the cache in."""

_TEXT = """\
#!/bin/sh
# Compiles the start-up cache of this artifact. Needs a GPU of the kind that will serve it.
#
#   ./bake.sh            where vLLM and lmi-compile are installed
#   ./bake.sh --docker   in the image (IMAGE=... names another); PACKAGE=... is what pip installs there
set -eu
cd -- "$(dirname -- "$0")"
if [ "${{1:-}}" = --docker ]; then
    image=${{IMAGE:-{image}}}
    if [ -z "$image" ]; then
        echo "the artifact is for no image: name one with IMAGE=..." >&2
        exit 6
    fi
    docker run --rm --gpus all --ipc host -v "$PWD:{path}" -w {path} -e "PACKAGE=${{PACKAGE:-lmi-compile}}" \\
        --entrypoint sh "$image" -c 'pip install -q "$PACKAGE" && ./bake.sh'
else
    python3 -m compiler.targets.vllm.finish "$PWD"
fi
echo "the cache is in $PWD/{compiled}; make the artifact of it, on any machine: lmi-compile package $PWD" >&2
"""


def script(image: str) -> bytes:
    """Bytes of the script. `image`: full name of the container image, "" where none was requested."""
    return _TEXT.format(image=shlex.quote(image) if image else "", path=MODEL_PATH, compiled=COMPILED).encode()
