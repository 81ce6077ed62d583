"""Tensors that are called, tied, shaped or valued otherwise than config.json or the recipe expects."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.cases.case import case
from tests.cases.checkpoints import ABSENT, CONFIG, difference, weights, write, write_json, write_weights
from tests.cases.runs import build, convert, plan, refused, taken

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from torch import Tensor

TIED = {"tie_word_embeddings": True}
HEAD, EMBEDDING = "lm_head.weight", "model.embed_tokens.weight"
SAME = 2e-5


def renamed(folder: Path, rename: Callable[[str], str]) -> Path:
    """The tiny checkpoint with other names of its tensors."""
    model = write(folder / "model")
    write_weights(model / "model.safetensors", {rename(name): tensor for name, tensor in weights(CONFIG).items()})
    return model


def other_head() -> Tensor:
    """A head that is not the embedding of the tied checkpoint."""
    return weights(CONFIG, seed=5)[HEAD]


@case(12, "tie_word_embeddings true beside a different lm_head")
def tied_beside_another_head(folder: Path) -> None:
    """Both are used, as transformers 5 does, and the plan says so."""
    model = write(folder / "model", TIED, {HEAD: other_head()})
    said = "`lm_head.weight` and `model.embed_tokens.weight`, which differ: not tied"
    taken(plan(model), said)
    taken(convert(model, folder / "out"), said)
    assert difference(model) < SAME


@case(12, "tied by the default of the class, beside a different head; with and without the prefix")
def tied_by_default(folder: Path) -> None:
    """Decided by comparing, whatever the names."""
    from safetensors.torch import load_file

    from tests.tiny import write_checkpoint

    for name, embedding in (("gpt2", "transformer.wte.weight"), ("gemma", "model.embed_tokens.weight")):
        file = write_checkpoint(name, folder / name) / "model.safetensors"
        found = load_file(file)
        found[HEAD] = found[embedding].roll(1, 0)
        write_weights(file, found)
        assert difference(folder / name) < SAME
        write_weights(file, {key.removeprefix(f"{embedding.partition('.')[0]}."): found[key] for key in found})
        assert difference(folder / name) < SAME


@case(12, "tie_word_embeddings true beside an equal lm_head")
def tied_beside_an_equal_head(folder: Path) -> None:
    """The head is left out without a word, in a wider dtype, too."""
    head = weights({**CONFIG, **TIED})[EMBEDDING]
    for name, equal in (("model", head), ("wider", head.float())):
        ran = plan(write(folder / name, TIED, {HEAD: equal}))
        taken(ran)
        assert "differ" not in ran.out + ran.err
    assert difference(folder / "model") < SAME


@case(28, "tied, only lm_head.weight in the file")
def only_the_head(folder: Path) -> None:
    """The head is the embedding."""
    embedding = weights({**CONFIG, **TIED})[EMBEDDING]
    model = write(folder / "model", TIED, {EMBEDDING: ABSENT, HEAD: embedding})
    taken(plan(model), "`lm_head.weight` is the embedding, too")
    assert difference(model) < SAME


@case(29, "tie_word_embeddings false, no lm_head")
def no_head(folder: Path) -> None:
    """The remedy names the key."""
    refused(plan(write(folder / "model", None, {HEAD: ABSENT})), 4, "lm_head", "tie_word_embeddings", "true")


@case(30, "names without `model.`")
def no_prefix(folder: Path) -> None:
    """Read as transformers reads them."""
    model = renamed(folder, lambda name: name.removeprefix("model."))
    taken(plan(model))
    assert difference(model) < SAME


@case(30, "a base model saved by itself: no prefix, no head, tied")
def base_model(folder: Path) -> None:
    """The layout of Qwen3-Embedding and of AutoModel.save_pretrained, which names the class without a head."""
    model = write(folder / "model", {**TIED, "architectures": ["LlamaModel"]})
    found = {name.removeprefix("model."): tensor for name, tensor in weights({**CONFIG, **TIED}).items()}
    write_weights(model / "model.safetensors", found)
    taken(plan(model), "LlamaForCausalLM")
    assert difference(model) < SAME


def _prefixed(prefix: str) -> Callable[[Path], None]:
    def check(folder: Path) -> None:
        ran = plan(renamed(folder, lambda name: prefix + name))
        refused(ran, 4, f"`{prefix}", "rename the tensors")

    check.__name__ = f"prefix {prefix}"
    return check


for _prefix in ("_orig_mod.", "module.", "base_model.model.", "language_model.", "anything.at.all."):
    case(31, f"all names begin with `{_prefix}`")(_prefixed(_prefix))


@case(31, "all names but the head's begin with `model.model.`")
def prefix_twice(folder: Path) -> None:
    """The prefix is named as it is found."""
    model = renamed(folder, lambda name: name if name == HEAD else f"model.{name}")
    refused(plan(model), 4, "`model.model.`")


@case(32, "LoRA matrices left in a checkpoint")
def lora(folder: Path) -> None:
    """The remedy is to merge."""
    q = "model.layers.0.self_attn.q_proj"
    one = weights(CONFIG)["model.norm.weight"].reshape(1, -1)
    model = write(folder / "model", None, {f"{q}.lora_A.weight": one, f"{q}.lora_B.weight": one.clone()})
    refused(plan(model), 4, "2 tensors are of a LoRA adapter", "merge")


@case(35, "layers beyond num_hidden_layers")
def more_layers(folder: Path) -> None:
    """Both numbers are named."""
    more = {name: tensor for name, tensor in weights({**CONFIG, "num_hidden_layers": 3}).items() if ".2." in name}
    refused(plan(write(folder / "model", None, more)), 4, "`num_hidden_layers` 2", "1 more", "MTP")


@case(35, "fewer layers than num_hidden_layers")
def fewer_layers(folder: Path) -> None:
    """The missing layer is named."""
    model = write(folder / "model", {"num_hidden_layers": 3})
    write_weights(model / "model.safetensors", weights(CONFIG))
    refused(plan(model), 4, "`num_hidden_layers` 3", "the first is 2")


@case(36, "rotary inv_freq buffers")
def inv_freq(folder: Path) -> None:
    """Buffers are left out."""
    norm = weights(CONFIG)["model.norm.weight"].float()
    model = write(
        folder / "model", None, {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": norm[:4] + i for i in (0, 1)}
    )
    assert difference(model) < SAME


@case(37, "biases of q, k and v beside attention_bias false")
def biases(folder: Path) -> None:
    """Refused: transformers would drop them."""
    norm = weights(CONFIG)["model.norm.weight"]
    refused(plan(write(folder / "model", None, {"model.layers.0.self_attn.q_proj.bias": norm})), 4, "q_proj.bias")


@case(38, "more rows of the embedding than vocab_size")
def vocabulary(folder: Path) -> None:
    """Both numbers are named."""
    tensors = weights({**CONFIG, "vocab_size": 264})
    model = write(folder / "model", None, {name: tensors[name] for name in (HEAD, EMBEDDING)})
    refused(plan(model), 4, "`vocab_size` 259", "264 rows")


@case(39, "float32 norms, float16 mlp, the rest bfloat16")
def mixed_dtypes(folder: Path) -> None:
    """Each tensor is cast by itself."""
    changed = {
        name: tensor.float() if "norm" in name else tensor.half()
        for name, tensor in weights(CONFIG).items()
        if "norm" in name or "mlp" in name
    }
    assert difference(write(folder / "model", None, changed)) < SAME


@case(39, "float32, float16 and bfloat16 among the matrices that one file tensor joins")
def mixed_joined(folder: Path) -> None:
    """Each is widened where they are joined."""
    changed = {
        name: tensor.float() * 1.001 if "k_proj" in name or "up_proj" in name else tensor.half()
        for name, tensor in weights(CONFIG).items()
        if "k_proj" in name or "v_proj" in name or "up_proj" in name
    }
    model = write(folder / "model", None, changed)
    assert difference(model) < SAME
    taken(convert(model, folder / "out", "--target", "trtllm", "--tp", "2"))


@case(40, "a float64 head")
def float64_head(folder: Path) -> None:
    """Cast as the others."""
    head = weights(CONFIG)[HEAD].double()
    model = write(folder / "model", None, {HEAD: head * 1.0000001})
    taken(convert(model, folder / "out"))
    assert difference(model) < SAME


@case(41, "a float32 weight of 1e6 in a float16 model")
def out_of_range(folder: Path) -> None:
    """The tensor and the number of its values are named before anything is compiled."""
    name = "model.layers.1.mlp.up_proj.weight"
    tensor = weights(CONFIG)[name].float()
    tensor[3, 4:6] = 1e6
    model = write(folder / "model", {"torch_dtype": "float16"}, {name: tensor})
    refused(convert(model, folder / "out"), 8, f"`{name}`", "2 values", "float16", "--dtype")
    refused(build(model, folder / "built"), 8, f"`{name}`", "2 values")
    taken(convert(model, folder / "wider", "--dtype", "bfloat16"))


@case(42, "NaN in the source")
def not_a_number(folder: Path) -> None:
    """The source is named as the cause, and the tensor."""
    name = "model.layers.0.mlp.up_proj.weight"
    tensor = weights(CONFIG)[name].clone()
    tensor[1, 2] = float("nan")
    model = write(folder / "model", None, {name: tensor})
    refused(convert(model, folder / "out"), 8, "the source itself", f"`{name}`", "1 NaN")
    ran = build(model, folder / "built")
    refused(ran, 8, "the source itself", f"`{name}`", "1 NaN")
    assert "--rehash" not in ran.err


@case(69, "a dtype that safetensors has and no cast takes")
def unknown_dtype(folder: Path) -> None:
    """Refused with its name."""
    model = write(folder / "model")
    data = (model / "model.safetensors").read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    header["model.norm.weight"]["dtype"] = "F8_E8M0"
    text = json.dumps(header).encode()
    (model / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + data[8 + size :])
    refused(plan(model), 3, "F8_E8M0", "model.norm.weight")


@case(69, "another tensor without elements")
def empty_tensor(folder: Path) -> None:
    """Refused with its name."""
    none = weights(CONFIG)["model.norm.weight"][:0]
    refused(plan(write(folder / "model", None, {"model.extra_state": none})), 4, "model.extra_state")


@case(70, "experts in one tensor, saved by transformers with save_original_format=False")
def stacked_experts(folder: Path) -> None:
    """Split along the experts."""
    from transformers import AutoModelForCausalLM

    from tests.tiny import write_checkpoint

    for name in ("mixtral", "qwen2_moe", "qwen3_moe"):
        model = AutoModelForCausalLM.from_pretrained(write_checkpoint(name, folder / name), dtype="auto")
        model.save_pretrained(folder / f"{name}-stacked", save_original_format=False)
        assert difference(folder / f"{name}-stacked") < SAME


@case(34, "an adapter beside the model")
def adapter_beside(folder: Path) -> None:
    """The plan says that it is not applied."""
    model = write(folder / "model")
    write_json(model / "adapter_config.json", {"base_model_name_or_path": "org/base"})
    taken(plan(model), "adapter", "is not applied")
