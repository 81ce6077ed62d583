"""Record of the machine that built the engines: `host.txt` in their folder, written by `build-engines.sh`.

NVIDIA L4, 8.9, 23034, 550.54    one line per GPU, in nvidia-smi's form
tensorrt 10.3.0                  one line per package, as in `versions` of build.py
"""

from __future__ import annotations

from pathlib import Path

from compiler.machine import GPU_QUERY, parse_gpus

HOST = "host.txt"
PACKAGES = ("tensorrt_llm", "tensorrt")
"""Packages that affect the bytes of an engine, besides the checkpoint and the GPU."""

_ASK = "import importlib.metadata as m; [print(d.name, d.version) for d in m.distributions() if d.name in {names!r}]"
WRITE = f"""\
python=$(sed -n '1s/^#!//p' "$(command -v trtllm-build)")
    {{ {GPU_QUERY} || true; $python -c "{_ASK.format(names=PACKAGES)}" || true; }} 2>/dev/null"""
"""Shell commands that print the record."""


def read_host(path: Path) -> tuple[str | None, dict[str, str]]:
    """Compute capability of the GPU (None: unknown), and versions by name; (None, {}) without the file."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    found, driver = parse_gpus(text)
    words = [line.split() for line in text.splitlines()]
    versions = {line[0]: line[1] for line in words if len(line) == 2 and line[0] in PACKAGES}
    if driver is not None:
        versions["driver"] = driver
    return (found[0].capability if found else None), versions
