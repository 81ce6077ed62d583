"""Builds that are killed, that run at once, and that ask a hub."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import recipes
from compiler.pipeline.build import build
from compiler.pipeline.request import BuildRequest
from tests import hub
from tests.builds import ROOT, Heard, leftovers, tree
from tests.stand_in import StandIn

if TYPE_CHECKING:
    from collections.abc import Callable


SLOW_BUILD = """
import sys
from pathlib import Path
import recipes
from compiler.pipeline.build import build
from compiler.pipeline.request import Ask, BuildRequest
from tests import hub
from tests.stand_in import StandIn
model, output, cache = sys.argv[1:]
request = BuildRequest(model=model, recipes=recipes, ask=Ask(tp=2, max_batch=2), output=Path(output), cache=Path(cache))
print("ready", flush=True)
build(request, toolchain=StandIn(delay=0.01))
"""


def test_a_build_killed_at_any_moment_is_finished_by_the_next(
    request_for: Callable[..., BuildRequest], tmp_path: Path
) -> None:
    """The moments are spread over one whole build; after every kill nothing half-made is at the output."""
    reference = tree(build(request_for(output=tmp_path / "undisturbed"), toolchain=StandIn()).output)
    output, cache = tmp_path / "victim", tmp_path / "victims-cache"
    argv = [sys.executable, "-c", SLOW_BUILD, request_for().model, str(output), str(cache)]
    chance = random.Random(7)
    kills = 0
    for attempt in range(12):
        with subprocess.Popen(argv, stdout=subprocess.PIPE, cwd=ROOT) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            time.sleep(chance.uniform(0, 0.6))
            kills += process.poll() is None
            process.send_signal(signal.SIGKILL)
        if output.exists():
            assert tree(output) == reference
            shutil.rmtree(output)
        if attempt % 4 == 3:
            shutil.rmtree(cache, ignore_errors=True)
    assert kills >= 6
    heard = Heard()
    result = build(request_for(output=output, cache=cache), heard, toolchain=StandIn())
    assert tree(result.output) == reference
    assert heard.warnings == []
    assert leftovers(tmp_path) == []
    assert list((cache / "work").iterdir()) == []


def build_beside(request: BuildRequest, log: Path) -> None:
    toolchain = StandIn(delay=0.02)
    build(replace(request, recipes=recipes), toolchain=toolchain)
    with log.open("a") as file:
        file.writelines(f"{name}\n" for name in toolchain.compiled)


@pytest.mark.parametrize("same_output", [True, False])
def test_builds_at_once_share_the_work(
    request_for: Callable[..., BuildRequest], tmp_path: Path, same_output: bool
) -> None:
    context = multiprocessing.get_context("fork")
    outputs = [tmp_path / ("one" if same_output else f"out{i}") for i in range(3)]
    log = tmp_path / "log"
    processes = [context.Process(target=build_beside, args=(request_for(output=output), log)) for output in outputs]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0, 0]
    compiled = log.read_text().splitlines()
    assert len(compiled) == len(set(compiled)) == 12
    assert len({tuple(tree(output).items()) for output in outputs}) == 1
    assert leftovers(tmp_path) == []


HUB_BUILD = """
import json, sys
from pathlib import Path
import recipes
from compiler.pipeline.build import build
from compiler.pipeline.request import BuildRequest
from tests import hub
from tests.stand_in import StandIn
model, output, cache = sys.argv[1:]
hashed = []
import compiler.storage.files.digest as digest
whole = digest.sha256_file
digest.sha256_file = lambda path: hashed.append(path.name) or whole(path)
request = BuildRequest(model=model, recipes=recipes, output=Path(output), cache=Path(cache))
made = build(request, toolchain=StandIn()).manifest
print(json.dumps({"model": made.model.model_dump(), "name": made.name, "hashed": hashed}))
"""


def test_a_model_of_a_hub_is_named_by_its_commit_and_not_hashed(
    tiny_checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    with hub.serve() as server:
        commit = server.add("owner/tiny-llama", tiny_checkpoint("llama"))
        clean = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        done = subprocess.run(
            [sys.executable, "-c", HUB_BUILD, "owner/tiny-llama", str(tmp_path / "out"), str(tmp_path / "cache")],
            env={**clean, **server.environment(tmp_path / "home")},
            capture_output=True,
            text=True,
            cwd=ROOT,
            check=True,
        )
    told = json.loads(done.stdout)
    assert (told["model"]["source"], told["model"]["repo_id"], told["model"]["revision"]) == (
        "hub",
        "owner/tiny-llama",
        commit,
    )
    assert told["name"] == "tiny-llama-inductor-tp1-bfloat16"
    assert "model.safetensors" not in told["hashed"]
