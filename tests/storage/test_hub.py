"""Models of a hub, through the real huggingface_hub, each call in a process of its own."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from compiler.storage.checkpoints.checkpoint import open_checkpoint
from tests import hub
from tests.storage import samples
from tests.storage.hub_process import answer

ASK = """
import json, sys
from pathlib import Path
from compiler.errors import LmiCompileError
from compiler.storage.checkpoints.resolve import resolve
model, revision, files, cache = sys.argv[1:]
try:
    found = resolve(model, revision or None, cache=Path(cache), files=files)
    answer = {"folder": str(found.folder), "repo_id": found.repo_id, "commit": found.commit, "names": found.names,
              "tensors": {n: [t.dtype, t.shape] for n, t in found.checkpoint(Path(cache)).tensors.items()},
              "config": found.checkpoint(Path(cache)).config}
except LmiCompileError as error:
    answer = {"error": type(error).__name__, "message": error.message, "hint": error.hint}
print(json.dumps(answer))
"""

TENSORS: samples.Tensors = {"embed": ("BF16", (8, 4)), "norm": ("F32", (4,)), "head": ("BF16", (8, 4))}
AS_JSON = {name: [dtype, list(shape)] for name, (dtype, shape) in TENSORS.items()}
TOKENIZER = ["tokenizer.json", "tokenizer_config.json", "chat_template.jinja"]
EXTRA = ["README.md", "modeling_evil.py", "consolidated.00.pth", "consolidated.safetensors", "flax_model.msgpack",
         "model.gguf", "original/params.json", "pytorch_model.bin"]  # fmt: skip

Ask = Callable[..., dict[str, Any]]


@pytest.fixture
def server() -> Iterator[hub.Hub]:
    with hub.serve() as running:
        yield running


@pytest.fixture
def ask(server: hub.Hub, tmp_path: Path) -> Ask:
    """`resolve` in a fresh process; what it found, or the error."""

    def question(model: str, revision: str = "", files: str = "all", **environment: str) -> dict[str, Any]:
        arguments = (model, revision, files, str(tmp_path / "cache"))
        return answer(server, tmp_path / "home", ASK, *arguments, **environment)

    return question


def model(folder: Path, shards: int = 1) -> Path:
    """Write a checkpoint with a tokenizer and with files that must not be fetched."""
    samples.checkpoint(folder, TENSORS, shards)
    (folder / "original").mkdir()
    for name in [*TOKENIZER, *EXTRA]:
        (folder / name).write_text(json.dumps({"name": name}))
    return folder


@pytest.mark.parametrize("shards", [1, 2])
def test_only_what_is_needed_is_fetched_and_only_once(server: hub.Hub, ask: Ask, tmp_path: Path, shards: int) -> None:
    commit = server.add("org/model", model(tmp_path / "m", shards))
    found = ask("org/model")
    weights = ["model.safetensors"] if shards == 1 else [
        "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
    ]  # fmt: skip
    assert (found["repo_id"], found["commit"], found["tensors"]) == ("org/model", commit, AS_JSON)
    assert sorted(server.downloads()) == sorted(["config.json", *TOKENIZER, *weights])
    assert sorted(found["names"]) == sorted(server.downloads())
    assert sorted(path.name for path in Path(found["folder"]).iterdir()) == sorted(server.downloads())
    server.requests.clear()
    assert ask("org/model") == found
    assert server.downloads() == []


@pytest.mark.parametrize("shards", [1, 2])
def test_a_plan_needs_headers_only(server: hub.Hub, ask: Ask, tmp_path: Path, shards: int) -> None:
    commit = server.add("org/model", model(tmp_path / "m", shards))
    found = ask("org/model", files="metadata")
    assert (found["commit"], found["tensors"]) == (commit, AS_JSON)
    assert found["config"] == {"architectures": ["LlamaForCausalLM"]}
    weights = [line for line in server.requests if line.startswith("GET") and ".safetensors" in line]
    assert all("bytes=" in line or "index.json" in line for line in weights)
    assert set(TOKENIZER) <= set(found["names"])


def test_a_plan_after_a_download_reads_the_local_files(server: hub.Hub, ask: Ask, tmp_path: Path) -> None:
    server.add("org/model", model(tmp_path / "m"))
    ask("org/model")
    server.requests.clear()
    assert ask("org/model", files="metadata")["tensors"] == AS_JSON
    assert server.downloads() == []


def test_pickled_weights_where_there_is_nothing_else(server: hub.Hub, ask: Ask, tmp_path: Path) -> None:
    import torch

    folder = model(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    torch.save({"w": torch.zeros(3)}, folder / "pytorch_model.bin")
    server.add("org/model", folder)
    refused = ask("org/model", files="metadata")
    assert refused["error"] == "OnlyPickledError"
    assert "no safetensors files" in refused["message"]
    assert "pytorch_model.bin" not in server.downloads()
    assert ask("org/model")["tensors"] == {"w": ["F32", [3]]}


def test_a_branch_that_moves_and_a_commit_that_does_not(server: hub.Hub, ask: Ask, tmp_path: Path) -> None:
    old = server.add("org/model", model(tmp_path / "old"))
    samples.checkpoint(tmp_path / "new", {"other": ("F32", (2,))})
    assert ask("org/model")["commit"] == old
    new = server.add("org/model", tmp_path / "new")
    found = ask("org/model")
    assert (found["commit"], set(found["tensors"])) == (new, {"other"})
    assert ask("org/model", old)["tensors"] == AS_JSON
    server.repos["org/model"].refs["v1"] = old
    assert ask("org/model", "v1")["commit"] == old


def test_work_without_network(server: hub.Hub, ask: Ask, tmp_path: Path) -> None:
    server.add("org/model", model(tmp_path / "m", shards=2))
    server.repos["org/model"].refs["v1"] = server.repos["org/model"].refs["main"]
    online = ask("org/model"), ask("org/model", "v1")
    server.requests.clear()
    assert (ask("org/model", HF_HUB_OFFLINE="1"), ask("org/model", "v1", HF_HUB_OFFLINE="1")) == online
    assert ask("org/model", files="metadata", HF_HUB_OFFLINE="1")["tensors"] == AS_JSON
    assert server.requests == []
    server.down = True
    assert ask("org/model") == online[0]
    assert ask("org/model", HF_ENDPOINT="http://127.0.0.1:9") == online[0]


def test_not_in_the_cache_without_network(server: hub.Hub, ask: Ask, tmp_path: Path) -> None:
    server.add("org/model", model(tmp_path / "m"))
    offline = ask("org/model", HF_HUB_OFFLINE="1")
    assert offline["error"] == "SourceError"
    assert "HF_HUB_OFFLINE" in offline["hint"]
    ask("org/model", files="metadata")  # the small files alone are not the model
    assert ask("org/model", HF_HUB_OFFLINE="1")["error"] == "SourceError"
    unreachable = ask("org/other", HF_ENDPOINT="http://127.0.0.1:9")
    assert unreachable["error"] == "SourceError"
    assert "http://127.0.0.1:9" in unreachable["message"]
    assert "network" in unreachable["hint"]


def test_a_download_that_was_cut_short_is_not_taken_for_the_model(server: hub.Hub, ask: Ask, tmp_path: Path) -> None:
    server.add("org/model", model(tmp_path / "m", shards=2))
    folder = Path(ask("org/model")["folder"])
    (folder / "model-00002-of-00002.safetensors").unlink()
    cut = ask("org/model", HF_HUB_OFFLINE="1")
    assert cut["error"] == "CheckpointError"
    assert "model-00002-of-00002.safetensors: missing" in cut["message"]
    assert ask("org/model")["tensors"] == AS_JSON
    assert open_checkpoint(folder).tensors.keys() == TENSORS.keys()


def test_private_and_gated_models(server: hub.Hub, ask: Ask, tmp_path: Path) -> None:
    server.add("org/private", model(tmp_path / "p"), private=True)
    server.add("org/gated", model(tmp_path / "g"), gated=True)
    private, gated = ask("org/private"), ask("org/gated")
    assert (private["error"], gated["error"]) == ("SourceError", "SourceError")
    assert "private" in private["message"]
    assert "HF_TOKEN" in private["hint"]
    assert "gated" in gated["message"]
    assert f"{server.url}/org/gated" in gated["hint"]
    for name in ("org/private", "org/gated"):
        assert ask(name, HF_TOKEN=hub.TOKEN)["tensors"] == AS_JSON


def test_missing_models_and_revisions(server: hub.Hub, ask: Ask, tmp_path: Path) -> None:
    server.add("org/model", model(tmp_path / "m"))
    unknown = ask("org/modle", HF_TOKEN=hub.TOKEN)
    assert "`org/modle` does not exist" in unknown["message"]
    revision = ask("org/model", "v9")
    assert "no revision `v9`" in revision["message"]
    assert "branch, a tag or a commit" in revision["hint"]
    invalid = ask("org/mo--del")
    assert "not a Hugging Face id" in invalid["message"]


def test_a_repository_that_is_not_a_model(server: hub.Hub, ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "README.md").write_text("nothing")
    server.add("org/empty", tmp_path / "empty")
    found = ask("org/empty")
    assert found["error"] == "CheckpointError"
    assert "no config.json in" in found["message"]


def test_an_index_that_names_a_shard_which_is_not_there(server: hub.Hub, ask: Ask, tmp_path: Path) -> None:
    folder = model(tmp_path / "m", shards=2)
    (folder / "model-00002-of-00002.safetensors").unlink()
    server.add("org/model", folder)
    for files in ("all", "metadata"):
        found = ask("org/model", files=files)
        assert found["error"] == "CheckpointError"
        assert "model-00002-of-00002.safetensors" in found["message"]
