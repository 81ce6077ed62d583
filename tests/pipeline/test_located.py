"""Plans without a network: every name that `lmi-compile models` lists, by the published config that comes along."""

from __future__ import annotations

import socket
import time
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import pytest

import recipes
from compiler import targets
from compiler.errors import CheckpointError, SourceError
from compiler.model.lazy import ITEMSIZE
from compiler.pipeline import located
from compiler.pipeline.located import plan_of
from compiler.pipeline.plan import make_plan
from compiler.pipeline.request import Ask, PlanRequest
from compiler.storage.checkpoints import hub
from compiler.targets.vllm.options import VllmOptions
from tests import published
from tests.command import command
from tests.published_shapes import BUFFERS, REPEATED, SHAPES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from compiler.model.published import PublishedModel

LAYERS = 6
NAMES = {name: recipe for recipe in recipes.available() for name in recipes.load(recipe).models}


@pytest.fixture(autouse=True)
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No model in the hub's cache, which huggingface_hub reads once when it is imported."""
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


def _request(model: str, **fields: Any) -> PlanRequest:
    return PlanRequest(model=model, recipes=recipes, **{"offline": True, **fields})


def _first_layers(config: Mapping[str, Any]) -> dict[str, Any]:
    """A config with at most six layers, which has every kind of layer: the other layers cost time alone."""
    key = next(key for key in ("num_hidden_layers", "n_layer", "n_layers", "num_layers") if key in config)
    layers = config[key]
    short = {k: v[:LAYERS] for k, v in config.items() if isinstance(v, list) and len(v) == layers}
    return {**config, **short, key: min(layers, LAYERS)}


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = recipes.published_model

    def shortened(repo_id: str) -> PublishedModel | None:
        found = whole(repo_id)
        return found and replace(found, config=_first_layers(found.config))

    monkeypatch.setattr(recipes, "published_model", shortened)


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_planned_offline(name: str) -> None:
    plan = plan_of(_request(name))
    assert plan.published is not None
    assert (plan.recipe, plan.published.model) == (NAMES[name], recipes.published(name))
    assert plan.ranks[0].nbytes > 0


@pytest.mark.usefixtures("short")
@pytest.mark.parametrize("name", published.SOURCES)
def test_sizes_are_those_of_a_plan_from_the_published_headers(name: str) -> None:
    hf = _first_layers(published.CONFIGS[name])
    dtype = next(iter(published.headers(name).values())).dtype
    shapes = SHAPES[hf["architectures"][0]](hf)
    headers = {key: published.Tensor(dtype, shape) for key, shape in shapes.items()}
    heads = next(hf[key] for key in ("num_attention_heads", "n_head", "n_heads") if key in hf)
    ask = Ask(tp=4 if heads % 4 == 0 else 1)
    real = make_plan("", recipes.for_config(hf)[1], targets.load("inductor"), hf, headers, ask)
    ours = plan_of(_request(published.SOURCES[name]["model"], ask=ask))
    assert [(rank.nbytes, len(rank.tensors)) for rank in ours.ranks] == [
        (rank.nbytes, len(rank.tensors)) for rank in real.ranks
    ]
    assert (ours.kv_bytes_per_token, ours.dtype, ours.heads) == (real.kv_bytes_per_token, real.dtype, real.heads)
    assert ours.needs == real.needs
    repeated = REPEATED.get(hf["architectures"][0], ())
    besides = sum(prod(shape) for key, shape in shapes.items() if key.endswith(BUFFERS) or key in repeated)
    assert ours.source_bytes == real.source_bytes - besides * ITEMSIZE[dtype]  # buffers and copies are left out


def test_a_derived_config_differs_from_its_relative_in_the_listed_keys_alone() -> None:
    found = recipes.published_model("EleutherAI/pythia-1b")
    assert found is not None
    base = published.CONFIGS["gpt-neox-20b"]
    assert (found.config["num_hidden_layers"], base["num_hidden_layers"]) == (16, 44)
    assert {key for key in base if found.config[key] != base[key]} == {
        "hidden_size", "intermediate_size", "num_attention_heads", "num_hidden_layers", "vocab_size"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("model", "parameters"),
    [
        ("command-r-plus", 103_810_674_688),
        ("pythia-12b", 11_846_072_320),
        ("qwen2.5-72b", 72_706_203_648),
    ],
)
def test_a_derived_config_has_as_many_parameters_as_the_model_has(model: str, parameters: int) -> None:
    plan = plan_of(_request(model))
    dtype = next(iter(plan.account.tensors.values())).dtype
    assert plan.source_bytes == parameters * ITEMSIZE[dtype]


def test_the_output_says_where_the_shapes_are_from(tmp_path: Path) -> None:
    ran = command("plan", "--model", "mixtral", "--tp", "8", "--offline", cache=tmp_path)
    assert ran.code == 0, ran.err
    assert "config of mistralai/Mixtral-8x7B-v0.1, 2023-12, that comes along" in ran.out
    words = ["plan", "--model", "mixtral", "--recipe", "mixtral", "--tp", "8", "--offline", "--json"]
    facts = command(*words, cache=tmp_path).json
    assert facts["published"]["model"] == "mistralai/Mixtral-8x7B-v0.1"
    assert facts["published"]["date"] == "2023-12"
    assert facts["published"]["unanswered"]
    assert len(facts["ranks"]) == 8


def test_a_hub_that_does_not_answer_is_asked_for_a_short_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import HfApi

    monkeypatch.setattr(located, "SECONDS", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        monkeypatch.setattr("huggingface_hub.HfApi", lambda: HfApi(endpoint=endpoint))
        began = time.monotonic()
        plan = plan_of(_request("mixtral", offline=False))
    assert time.monotonic() - began < 20
    assert plan.published is not None
    assert "could not be fetched" in plan.unanswered


def test_a_damaged_model_of_the_hub_is_an_error_and_not_answered_by_its_config(monkeypatch: pytest.MonkeyPatch) -> None:
    def damaged(*_: Any) -> Any:
        raise CheckpointError("its index names a file that is missing", hint="another revision")

    monkeypatch.setattr(hub, "fetch", damaged)
    with pytest.raises(CheckpointError, match="its index"):
        plan_of(_request("mixtral"))


def test_a_revision_is_not_answered_by_the_config_of_another() -> None:
    with pytest.raises(SourceError, match="offline"):
        plan_of(_request("mixtral", revision="v2"))


@pytest.mark.usefixtures("short")
def test_a_target_that_copies_quantized_tensors_needs_their_headers() -> None:
    ask = Ask(options=VllmOptions(weights="plain"))
    with pytest.raises(SourceError, match="copies its quantized tensors"):
        plan_of(_request("gpt-oss-20b", target="vllm", ask=ask))


def test_a_build_does_not_take_shapes_for_weights(tmp_path: Path) -> None:
    ran = command("build", "--model", "pythia-70m", "--offline", "-o", tmp_path / "out", cache=tmp_path)
    assert ran.code == 3
    assert "not in the cache" in ran.err
