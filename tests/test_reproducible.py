"""A converted checkpoint has the same bytes whoever converts it, where, and under which settings."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compiler.storage.files.digest import sha256_file

ROOT = Path(__file__).parents[1]
NOBODY = 65534

CONVERT = """
import os, sys
from pathlib import Path
import recipes
from compiler.pipeline.convert_only import convert_to
from compiler.pipeline.request import Ask, PlanRequest, Resources
from compiler.targets.trtllm.options import TrtllmOptions
model, outputs, user = Path(sys.argv[1]), sys.argv[3:], int(sys.argv[2])
for output in outputs:
    ask = Ask(tp=4, options=TrtllmOptions(version="0.21.0", moe_ep=2))
    memory = Resources(max_memory=int(os.environ["CEILING"]))
    request = PlanRequest(
        model=str(model), recipes=recipes, target="trtllm", ask=ask, resources=memory, cache=model / "cache"
    )
    convert_to(request, Path(output))
    if os.getuid() == 0:
        # Modules are loaded by now, wherever they lie.
        os.setgroups([])
        os.setgid(user)
        os.setuid(user)
"""


@pytest.fixture
def place(tiny_checkpoint: Callable[[str], Path]) -> Iterator[Path]:
    """A folder that every user may write to, with a checkpoint that every user may read."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o777)
        shutil.copytree(tiny_checkpoint("mixtral"), folder / "model")
        for file in (folder / "model").iterdir():
            file.chmod(0o644)
        yield folder


def convert(place: Path, *outputs: Path, user: int = 0, ceiling: int = 1 << 30, **environment: str) -> None:
    subprocess.run(
        [sys.executable, "-c", CONVERT, str(place / "model"), str(user), *map(str, outputs)],
        check=True,
        cwd=ROOT,
        env={**os.environ, "CEILING": str(ceiling), **environment},
    )


def tree(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir())}


def test_settings_of_the_process_are_not_in_the_bytes(place: Path) -> None:
    convert(place, place / "one", PYTHONHASHSEED="1", LC_ALL="C", TZ="UTC")
    other = place / "deeper" / "still" / "two"
    other.parent.mkdir(parents=True)
    convert(
        place,
        other,
        ceiling=30_000,  # one thread, and blocks of a few rows
        PYTHONHASHSEED="2",
        LC_ALL="C.UTF-8",
        TZ="Asia/Tokyo",
        OMP_NUM_THREADS="1",
    )
    assert tree(place / "one").keys() == {"config.json", *(f"rank{rank}.safetensors" for rank in range(4))}
    assert tree(place / "one") == tree(other)


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_neither_is_the_user(place: Path) -> None:
    convert(place, place / "as-root", place / "as-nobody", user=NOBODY)
    assert (place / "as-nobody" / "config.json").stat().st_uid == NOBODY
    assert tree(place / "as-root") == tree(place / "as-nobody")
