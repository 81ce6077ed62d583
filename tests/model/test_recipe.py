"""The layouts that checkpoints come in, each against the same values laid out by hand."""

from __future__ import annotations

import numpy as np
import pytest

import recipes
from compiler.errors import RefusedError
from compiler.model import lazy
from compiler.model.config import Traits
from compiler.model.ops import inverse, run
from compiler.model.places import Default, Flag, Half, lookup
from compiler.model.programs import to_roles
from compiler.model.recipe import Map, Recipe, Variant
from tests import published
from tests.model.configs import config

HIDDEN, HEADS, KV, D, FFN, EXPERTS = 16, 4, 2, 4, 24, 3
CONFIG = config(hidden=HIDDEN, heads=HEADS, kv_heads=KV, head_dim=D, ffn=FFN, experts=EXPERTS, moe_ffn=6)
QKV = ("attn.q", "attn.k", "attn.v")


def _roles(mapping: Map, stored: list[np.ndarray], part: str = "weight") -> list[np.ndarray]:
    """What the program of `mapping` reads out of `stored`, checked to be undone by its inverse."""
    data = {f"s{i}": array for i, array in enumerate(stored)}
    sources = [lazy.whole(name, array.shape, "BF16") for name, array in data.items()]
    program = to_roles(mapping, part, CONFIG)
    given = run(program, sources)
    for back, array in zip(run(inverse(program), given), stored, strict=True):
        np.testing.assert_array_equal(lazy.read(back, lambda n: data[n].ravel()), array)
    return [lazy.read(t, lambda n: data[n].ravel()) for t in given]


def _random(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 2**16, shape, dtype="u2")


def test_interleaved_rows_of_all_experts_stored_transposed() -> None:
    w, bias = _random(EXPERTS, HIDDEN, 12), _random(EXPERTS, 12)
    mapping = Map("e.gate_up", ("moe.gate", "moe.up"), fused="interleaved", layout="in out", stacked=True)
    for found, first in zip(_roles(mapping, [w]), (0, 1), strict=True):
        np.testing.assert_array_equal(found, w[..., first::2].transpose(0, 2, 1))
    for found, first in zip(_roles(mapping, [bias], "bias"), (0, 1), strict=True):
        np.testing.assert_array_equal(found, bias[:, first::2])


def test_a_bare_name_is_the_whole_name() -> None:
    recipe = Recipe(("A",), {}, (Map("x.{layer}.sinks", "attn.sinks", bare=True),))
    ((pattern, _),) = recipe.patterns
    assert pattern.fullmatch("x.3.sinks")
    assert not pattern.fullmatch("x.3.sinks.weight")


def test_layers_that_predict_further_tokens_are_ignored_and_no_others() -> None:
    hf = published.CONFIGS["deepseek-v3"]
    ignored = recipes.for_config(hf)[1].resolve(hf).ignored
    assert any(pattern.fullmatch("model.layers.61.eh_proj.weight") for pattern in ignored)
    assert not any(pattern.fullmatch("model.layers.62.eh_proj.weight") for pattern in ignored)
    assert not any(pattern.fullmatch("model.layers.6.mlp.gate.weight") for pattern in ignored)
    without = {**hf, "num_nextn_predict_layers": 0}
    assert not recipes.for_config(hf)[1].resolve(without).ignored


def test_an_ordinary_projection_gets_its_heads() -> None:
    w = _random(HEADS * D, HIDDEN)
    np.testing.assert_array_equal(_roles(Map("q", "attn.q"), [w])[0], w.reshape(HEADS, D, HIDDEN))


def test_the_output_projection_has_heads_on_its_input() -> None:
    w = _random(HIDDEN, HEADS * D)
    np.testing.assert_array_equal(_roles(Map("o", "attn.o"), [w])[0], w.reshape(HIDDEN, HEADS, D))


def test_fused_rows_are_q_then_k_then_v() -> None:
    w = _random((HEADS + 2 * KV) * D, HIDDEN)
    q, k, v = _roles(Map("W_pack", QKV), [w])
    np.testing.assert_array_equal(q.reshape(-1, HIDDEN), w[: HEADS * D])
    np.testing.assert_array_equal(k.reshape(-1, HIDDEN), w[HEADS * D : (HEADS + KV) * D])
    np.testing.assert_array_equal(v.reshape(-1, HIDDEN), w[(HEADS + KV) * D :])


def test_fused_bias_splits_as_its_weight() -> None:
    b = _random((HEADS + 2 * KV) * D)
    q, k, v = _roles(Map("c_attn", QKV), [b], "bias")
    np.testing.assert_array_equal(np.concatenate([q.ravel(), k.ravel(), v.ravel()]), b)


def test_interleaved_per_kv_head() -> None:
    w = _random((HEADS + 2 * KV) * D, HIDDEN)
    grid = w.reshape(KV, HEADS // KV + 2, D, HIDDEN)
    q, k, v = _roles(Map("wqkv", QKV, fused="per_kv_head"), [w])
    np.testing.assert_array_equal(q, grid[:, :-2].reshape(HEADS, D, HIDDEN))
    np.testing.assert_array_equal(k, grid[:, -2])
    np.testing.assert_array_equal(v, grid[:, -1])


def test_conv1d_lies_transposed() -> None:
    w = _random(HIDDEN, (HEADS + 2 * KV) * D)
    q, k, v = _roles(Map("c_attn", QKV, layout="in out"), [w])
    joined = np.concatenate([part.reshape(-1, HIDDEN) for part in (q, k, v)])
    np.testing.assert_array_equal(joined, w.T)


def test_gate_and_up_in_one_matrix() -> None:
    w = _random(2 * FFN, HIDDEN)
    gate, up = _roles(Map("dense_h_to_4h", ("mlp.gate", "mlp.up")), [w])
    np.testing.assert_array_equal(np.concatenate([gate, up]), w)


def test_experts_one_by_one_are_stacked_in_order() -> None:
    stored = [_random(6, HIDDEN) + i for i in range(EXPERTS)]
    (gate,) = _roles(Map("experts.{expert}.w1", "moe.gate"), stored)
    np.testing.assert_array_equal(gate, np.stack(stored))


def test_fused_gate_and_up_of_every_expert() -> None:
    stored = [_random(12, HIDDEN) + i for i in range(EXPERTS)]
    gate, up = _roles(Map("experts.{expert}.w13", ("moe.gate", "moe.up")), stored)
    np.testing.assert_array_equal(np.concatenate([gate, up], axis=1), np.stack(stored))


def test_all_experts_in_one_tensor_are_split_as_those_stored_one_by_one() -> None:
    stored = _random(EXPERTS, 12, HIDDEN)
    gate, up = _roles(Map("experts.w13", ("moe.gate", "moe.up"), stacked=True), [stored])
    np.testing.assert_array_equal(gate, stored[:, :6])
    np.testing.assert_array_equal(up, stored[:, 6:])
    (down,) = _roles(Map("experts.w2", "moe.down", stacked=True, layout="in out"), [_random(EXPERTS, 6, HIDDEN)])
    np.testing.assert_array_equal(down, _random(EXPERTS, 6, HIDDEN).transpose(0, 2, 1))


def test_a_stacked_tensor_has_no_suffix_and_its_bias_another() -> None:
    (pattern, _) = Recipe(("X",), {}, (Map("m.experts.w2", "moe.down", stacked=True),)).patterns[0]
    parts = {name: (m := pattern.fullmatch(name)) and m["part"] for name in ("m.experts.w2", "m.experts.w2_bias")}
    assert parts == {"m.experts.w2": None, "m.experts.w2_bias": "bias"}
    assert not pattern.fullmatch("m.experts.w2.weight")


@pytest.mark.parametrize(
    ("recipe", "prefix"), [("llama", "model."), ("gpt2", "transformer."), ("gpt_neox", "gpt_neox."), ("glm", "model.")]
)
def test_names_are_read_with_and_without_the_prefix_of_the_base_model(recipe: str, prefix: str) -> None:
    found = recipes.load(recipe)
    assert found.base_prefix == prefix
    for pattern, mapping in found.patterns:
        name = mapping.source.format(layer=7, expert=3) + ".weight"
        assert pattern.fullmatch(name.removeprefix(prefix))
        assert mapping.role_names == ("head",) or pattern.fullmatch(prefix + name.removeprefix(prefix))


def test_patterns_match_whole_names_and_an_optional_prefix() -> None:
    recipe = Recipe(("X",), {}, (Map("h.{layer}.attn.c_attn", QKV),), optional_prefix="transformer.")
    (pattern, _) = recipe.patterns[0]
    assert pattern.fullmatch("transformer.h.12.attn.c_attn.weight")
    assert pattern.fullmatch("h.12.attn.c_attn.bias")
    for name in ("x.h.1.attn.c_attn.weight", "h.1.attn.c_attn.weight.scale", "h.a.attn.c_attn.weight"):
        assert not pattern.fullmatch(name)
    assert not pattern.fullmatch("hx1xattnxc_attn.weight")


def test_a_variant_is_chosen_by_the_config_or_by_name() -> None:
    big = Variant("13b", {"hidden_size": 5120}, traits=Traits(position="alibi"))
    recipe = Recipe(("B",), {}, (), variants=(big,))
    assert recipe.resolve({"hidden_size": 5120}).traits.position == "alibi"
    assert recipe.resolve({"hidden_size": 4096}).traits.position == "rope"
    assert recipe.resolve({"hidden_size": 4096}, "13b").traits.position == "alibi"


def test_a_variant_may_take_several_values_and_is_chosen_by_none_where_it_states_none() -> None:
    some = Variant("some", {"size": (7, 13), "flag": None}, traits=Traits(norm="layer"))
    named = Variant("named", {}, traits=Traits(norm="rms_plus_one"))
    recipe = Recipe(("B",), {}, (), variants=(named, some))
    assert recipe.resolve({"size": 13}).traits.norm == "layer"
    assert recipe.resolve({"size": 8}).traits.norm == "rms"
    assert recipe.resolve({"size": 13, "flag": 0}).traits.norm == "rms"
    assert recipe.resolve({"size": 13}, "named").traits.norm == "rms_plus_one"


def test_a_variant_that_does_not_exist_is_refused() -> None:
    recipe = Recipe(("B",), {}, (), variants=(Variant("7b", {}), Variant("13b", {})))
    with pytest.raises(RefusedError, match="is one of 13b, 7b for this architecture; found `14b`"):
        recipe.resolve({}, "14b")


def test_a_config_that_says_other_than_assumed_is_refused() -> None:
    hf = published.CONFIGS["tinyllama"]
    recipe = Recipe(
        ("B",), {}, (), assumes={"scaled": True, "kind": ("a", "b")}, variants=(Variant("free", {}, assumes={}),)
    )
    assert recipe.model_config(hf).heads == recipe.model_config(hf | {"scaled": True, "kind": "b"}).heads
    for other, told in (({"scaled": False}, "expected scaled True, found False"), ({"kind": "c"}, "found 'c'")):
        with pytest.raises(RefusedError, match=told) as caught:
            recipe.model_config(hf | other)
        assert "free" in caught.value.hint
        assert recipe.resolve(hf, "free").model_config(hf | other).heads == 32


@pytest.mark.parametrize(
    ("place", "expected"),
    [
        ("a.b", 3),
        (("x", "a.b"), 3),
        (("x", "y"), None),
        ((), None),
        (("x", Default("y", value=2)), 2),
        (Half("n"), 5),
        (Default("n", value=1), 10),
        (Default("x", value=1), 1),
        (Default("null", value=1), 1),
        (Default("x", times=(4, "n")), 40),
        (Default("x", times=(4, "y")), None),
        (Flag("on", yes=1, no="n"), 1),
        (Flag("off", yes=1, no="n"), 10),
    ],
    ids=str,
)
def test_places_of_numbers(place: object, expected: int | None) -> None:
    hf = {"a": {"b": 3}, "n": 10, "null": None, "on": True, "off": False}
    assert lookup(hf, place) == expected  # type: ignore[arg-type]  # the parameters are of every kind of Place
