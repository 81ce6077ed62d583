"""Cases of config.json: absent keys, keys without effect, contradictions, values of the wrong kind, rope scaling.

`cmp` is 200 tokens long: beyond every window and every original context here.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.cases.case import case
from tests.cases.checkpoints import ABSENT, difference, write
from tests.cases.runs import plan, refused, taken
from tests.published import CONFIGS, headers
from tests.tiny import write_checkpoint

if TYPE_CHECKING:
    from pathlib import Path

TOKENS = 200
EQUAL = 1e-5
"""Largest difference of equal computations, in units of the largest logit."""


def equal(folder: Path, **config: Any) -> None:
    """The tiny Llama with these changes of config.json computes what transformers computes."""
    write(folder, config)
    found = difference(folder, TOKENS)
    assert found < EQUAL, f"logits differ by {found:.2g} of their scale"


def equal_tiny(folder: Path, name: str, **config: Any) -> None:
    """The tiny checkpoint of a recipe with these changes computes what transformers computes."""
    write_checkpoint(name, folder, dtype="float32")
    _change(folder, config)
    found = difference(folder, TOKENS)
    assert found < EQUAL, f"logits differ by {found:.2g} of their scale"


def _change(folder: Path, config: dict[str, Any]) -> None:
    path = folder / "config.json"
    settings = {**json.loads(path.read_text()), **config}
    path.write_text(json.dumps({key: value for key, value in settings.items() if value is not ABSENT}))


@case(3, "LlamaForCausalLM with a leftover sliding_window")
def leftover_window(folder: Path) -> None:
    equal(folder, sliding_window=64)
    taken(plan(folder), "`sliding_window` 64 without effect", "LlamaForCausalLM does not read it")


@case(4, "Qwen2 with sliding_window, without use_sliding_window")
def no_switch(folder: Path) -> None:
    equal_tiny(folder, "qwen2", use_sliding_window=ABSENT, sliding_window=64, layer_types=ABSENT)


@case(5, "Qwen2 with use_sliding_window, without max_window_layers")
def no_threshold(folder: Path) -> None:
    equal_tiny(
        folder, "qwen2", use_sliding_window=True, sliding_window=16, max_window_layers=ABSENT, layer_types=ABSENT
    )


@case(7, "sliding_window 0 and -1, of an architecture that has windows")
def no_window(folder: Path) -> None:
    write_checkpoint("mistral", folder)
    for size in (0, -1):
        _change(folder, {"sliding_window": size})
        refused(plan(folder), 3, "config.json", "`sliding_window`", "a whole number of 1", f"found {size}")


@case(8, "windows of Mistral, Qwen2 and StarCoder2")
def windows(folder: Path) -> None:
    equal_tiny(folder / "mistral", "mistral", sliding_window=16)
    equal_tiny(folder / "null", "mistral", sliding_window=None)
    equal_tiny(folder / "absent", "mistral", sliding_window=ABSENT)
    equal_tiny(folder / "off", "qwen2")
    equal_tiny(folder / "on", "qwen2/window")
    types = ["full_attention", "sliding_attention", "full_attention"]
    equal_tiny(folder / "types", "qwen2", use_sliding_window=True, sliding_window=16, layer_types=types)
    equal_tiny(folder / "starcoder2", "starcoder2", sliding_window=16)


@case(8, "Mistral with layer_types, with which transformers 5 reads it as Ministral")
def mistral_types(folder: Path) -> None:
    for name, second in (("mixed", "sliding_attention"), ("full", "full_attention")):
        types = ["full_attention", second, "full_attention"]
        equal_tiny(folder / name, "mistral", sliding_window=16, layer_types=types)


@case(9, "config.json without rope_theta, as Llama 2 was published")
def no_rope_theta(folder: Path) -> None:
    equal(folder, rope_theta=ABSENT)
    taken(plan(folder), "rope_theta (10000.0 is assumed)")
    import recipes
    from compiler import targets
    from compiler.pipeline.plan import make_plan
    from compiler.pipeline.request import Ask

    for name in ("llama2-7b", "llama2-13b", "llama2-70b"):
        hf = CONFIGS[name]
        found = make_plan(*recipes.for_config(hf), targets.load("inductor"), hf, headers(name), Ask(tp=8))
        assert (found.config.rope_theta, found.dtype, found.tp) == (10000.0, "float16", 8)


@case(10, "Llama 1: no rope_theta, kv heads or max_position_embeddings")
def llama_1(folder: Path) -> None:
    absent = dict.fromkeys(("rope_theta", "num_key_value_heads", "max_position_embeddings"), ABSENT)
    write(folder, {"num_key_value_heads": 8})
    _change(folder, {**absent, "max_sequence_length": 2048})
    assert difference(folder, TOKENS) < EQUAL
    taken(plan(folder), "max_position_embeddings (2048 is assumed)")


@case(11, "rms_norm_eps and hidden_act absent")
def no_eps(folder: Path) -> None:
    equal(folder / "eps", rms_norm_eps=ABSENT)
    equal(folder / "act", hidden_act=ABSENT)


@case(11, "attention_bias of GLM and use_bias of StarCoder2 absent")
def no_biases(folder: Path) -> None:
    equal_tiny(folder / "glm", "glm", attention_bias=ABSENT)
    equal_tiny(folder / "starcoder2", "starcoder2", use_bias=ABSENT)


@case(5, "SmolLM3 with windows named in layer_types, and use_sliding_window false")
def named_windows(folder: Path) -> None:
    types = ["full_attention", "sliding_attention", "full_attention"]
    equal_tiny(folder, "smollm3", layer_types=types, sliding_window=16, use_sliding_window=False)


@case(13, "rope_theta beside another rope_parameters.rope_theta")
def two_thetas(folder: Path) -> None:
    equal(folder, rope_theta=10000.0, rope_parameters={"rope_type": "default", "rope_theta": 500000.0})
    told = "`rope_parameters.rope_theta` 500000.0 counts", "not `rope_theta` 10000.0"
    taken(plan(folder), *told)


@case(13, "rope_scaling beside rope_parameters")
def two_scalings(folder: Path) -> None:
    scaling = {"rope_type": "linear", "factor": 2.0}
    equal(folder, rope_scaling=scaling, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    taken(plan(folder), "`rope_scaling` {'rope_type': 'linear', 'factor': 2.0} counts", "not `rope_parameters`")


@case(13, "original_max_position_embeddings beside another in rope_scaling")
def two_originals(folder: Path) -> None:
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}
    equal(folder, rope_scaling=scaling, original_max_position_embeddings=64)
    told = "`original_max_position_embeddings` 64 counts", "not `rope_scaling.original_max_position_embeddings` 128"
    taken(plan(folder), *told)


@case(22, "a longrope factor that is not the ratio of the two lengths")
def longrope_factor(folder: Path) -> None:
    scaling = {"type": "longrope", "short_factor": [1.0] * 4, "long_factor": [2.0] * 4, "factor": 8.0}
    write(folder, {"rope_scaling": scaling, "original_max_position_embeddings": 128})
    refused(plan(folder), 4, "`factor` 8", "512 / 128 = 4", "attention_factor")


@case(71, "Gemma's hidden_act gelu, with which it was not trained")
def gemma_gelu(folder: Path) -> None:
    equal_tiny(folder, "gemma", hidden_act="gelu")
    taken(plan(folder), "`hidden_act` 'gelu' in config.json means gelu_tanh")


@case(15, "torch_dtype absent or null, weights bfloat16")
def no_dtype(folder: Path) -> None:
    stated = json.loads(plan(write(folder / "stated"), "--json").out)
    for name, value in (("absent", ABSENT), ("null", None)):
        found = json.loads(plan(write(folder / name, {"torch_dtype": value}), "--json").out)
        assert found["dtype"] == stated["dtype"] == "bfloat16"
        assert found["ranks"] == stated["ranks"]


@case(16, "dtype beside torch_dtype null, and torch.bfloat16")
def dtype_spellings(folder: Path) -> None:
    for name, change in (
        ("new", {"torch_dtype": None, "dtype": "bfloat16"}),
        ("long", {"torch_dtype": "torch.bfloat16"}),
    ):
        assert json.loads(plan(write(folder / name, change), "--json").out)["dtype"] == "bfloat16"
    both = plan(write(folder / "both", {"torch_dtype": "float16", "dtype": "bfloat16"}))
    taken(both, "`dtype` 'bfloat16' counts", "not `torch_dtype` 'float16'")


@case(17, "torch_dtype auto and bf16")
def unknown_dtypes(folder: Path) -> None:
    for name in ("auto", "bf16"):
        refused(plan(write(folder / name, {"torch_dtype": name})), 4, "config.json", "bfloat16", f"found `{name}`")


@case(18, "rope_parameters of transformers 5, default and llama3")
def new_rope(folder: Path) -> None:
    equal(folder / "default", rope_theta=ABSENT, rope_parameters={"rope_type": "default", "rope_theta": 5e5})
    llama3 = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
              "original_max_position_embeddings": 64}  # fmt: skip
    equal(folder / "llama3", rope_theta=ABSENT, rope_parameters=llama3)


@case(19, "spellings of rope_scaling")
def rope_spellings(folder: Path) -> None:
    for name, scaling in {
        "both": {"type": "linear", "rope_type": "linear", "factor": 2.0},
        "type": {"type": "linear", "factor": 2.0},
        "empty": {},
        "one": {"type": "linear", "factor": 1.0},
        "dynamic": {"type": "dynamic", "factor": 2.0},
    }.items():
        equal(folder / name, rope_scaling=scaling)


@case(19, "rope_type and type that contradict each other")
def two_rope_types(folder: Path) -> None:
    write(folder, {"rope_scaling": {"type": "linear", "rope_type": "yarn", "factor": 2.0}})
    refused(plan(folder), 3, "config.json", "rope_type 'yarn'", "type 'linear'")


@case(21, "yarn, as found and as asked for")
def yarn(folder: Path) -> None:
    scaling = {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    equal(folder / "found", rope_scaling=scaling)
    equal(folder / "of the model", rope_scaling={"rope_type": "yarn", "factor": 2.0}, max_position_embeddings=128)
    taken(plan(write(folder / "asked"), "--rope-scaling", "yarn:4"), "2048")


@case(22, "longrope across its original context")
def longrope(folder: Path) -> None:
    lists = {"short_factor": [1.0, 1.2, 1.5, 2.0], "long_factor": [1.0, 2.0, 4.0, 8.0]}
    scaling = {"type": "longrope", **lists}
    equal(folder / "long", rope_scaling=scaling, original_max_position_embeddings=128)
    taken(plan(folder / "long"), "built for 512 positions, more than the original 128", "`--max-positions 128`")
    equal(folder / "short", rope_scaling=scaling, original_max_position_embeddings=512)
    equal_tiny(folder / "phi3", "phi3", original_max_position_embeddings=64, rope_parameters=None,
               rope_scaling={"type": "longrope", "short_factor": [1.0, 1.5, 2.0, 3.0, 4.0],
                             "long_factor": [1.0, 2.0, 4.0, 8.0, 16.0]})  # fmt: skip


@case(23, "null kv heads, head_dim, mlp_bias, tie; sizes as floats")
def nulls(folder: Path) -> None:
    write(folder, {"num_key_value_heads": None, "head_dim": None, "mlp_bias": None, "tie_word_embeddings": None})
    taken(plan(folder))
    _change(folder, {"hidden_size": 64.0, "num_hidden_layers": 2.0, "rope_theta": 10000})
    taken(plan(folder))


@case(71, "models as transformers 5 saves them")
def saved_by_5(folder: Path) -> None:
    names = ("mixtral", "gemma", "starcoder2", "phi3", "gpt2", "gptj", "starcoder", "phi3/partial-rotation")
    for name in names:
        equal_tiny(folder / name.replace("/", "-"), name)


@case(71, "variants of gelu, reorder_and_upcast_attn, tie_word_embeddings absent")
def variants(folder: Path) -> None:
    for name in ("gelu", "gelu_new", "gelu_fast", "gelu_pytorch_tanh", "relu"):
        equal_tiny(folder / name, "gpt2", activation_function=name)
    equal_tiny(folder / "upcast", "gpt2", reorder_and_upcast_attn=True)
    equal_tiny(folder / "tied", "gpt2", tie_word_embeddings=ABSENT)
    equal_tiny(folder / "no bias", "starcoder2/no-bias")


@case(72, "GPT-2 with scale_attn_by_inverse_layer_idx")
def scaled_by_layer(folder: Path) -> None:
    write_checkpoint("gpt2", folder)
    _change(folder, {"scale_attn_by_inverse_layer_idx": True})
    refused(plan(folder), 4, "scale_attn_by_inverse_layer_idx False, found True")


@case(73, "Granite with --recipe llama")
def foreign_recipe(folder: Path) -> None:
    write(folder, {"architectures": ["GraniteForCausalLM"], "model_type": "granite", "logits_scaling": 8.0})
    refused(plan(folder, "--recipe", "llama"), 4, "`llama` reads LlamaForCausalLM", "GraniteForCausalLM")
    _change(folder, {"architectures": ABSENT})
    refused(plan(folder, "--recipe", "llama"), 4, "`llama` reads LlamaForCausalLM", "'granite'")


@case(74, "layer_types shorter than num_hidden_layers")
def short_types(folder: Path) -> None:
    write_checkpoint("qwen2", folder)
    _change(folder, {"use_sliding_window": True, "layer_types": ["full_attention"]})
    refused(plan(folder), 3, "config.json", "`layer_types`", "3 names", "1 names")


@case(75, "rope_scaling and hidden_act of the wrong kind")
def wrong_kinds(folder: Path) -> None:
    refused(plan(write(folder / "text", {"rope_scaling": "linear"})), 3, "config.json", "`rope_scaling`", "'linear'")
    refused(plan(write(folder / "list", {"rope_scaling": [2.0]})), 3, "config.json", "`rope_scaling`", "[2.0]")
    refused(plan(write(folder / "act", {"hidden_act": ["silu"]})), 4, "config.json", "`hidden_act`", "['silu']")
    refused(plan(write(folder / "size", {"rms_norm_eps": "1e-5"})), 3, "config.json", "`rms_norm_eps`", "'1e-5'")


@case(76, "num_hidden_layers 10**7")
def many_layers(folder: Path) -> None:
    write(folder)
    _change(folder, {"num_hidden_layers": 10**7})
    refused(plan(folder), 3, "config.json", "`num_hidden_layers`", "found 10000000")
