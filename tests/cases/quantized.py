"""Checkpoints that other programs quantized."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from tests.cases.case import case
from tests.cases.checkpoints import CONFIG, weights, write, write_json
from tests.cases.runs import convert, plan, refused, taken

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

DECLARED = "quantization_config"


def _checkpoint(folder: Path, way: str, **said: Any) -> tuple[Path, dict[str, Tensor]]:
    """A quantized checkpoint, and the weights that it stands for by module."""
    from tests.quantization.foreign import quantized

    return folder / way, quantized(folder / way, way, **said)


def _changed(model: Path, drop: str, more: Mapping[str, Tensor]) -> None:
    """The file without tensors whose name ends in `drop`, if it is not empty, and with others."""
    from safetensors.torch import load_file, save_file

    found = load_file(model / "model.safetensors")
    kept = {name: tensor for name, tensor in found.items() if not drop or not name.endswith(drop)}
    save_file({**kept, **more}, model / "model.safetensors", metadata={"format": "pt"})


def _exact(model: Path, expected: dict[str, Tensor]) -> None:
    """Check that a conversion to float32 writes the weights that the numbers stand for."""
    import torch
    from safetensors.torch import load_file

    output = model.with_name(f"{model.name}.out")
    taken(convert(model, output, "--dtype", "float32"))
    (file,) = output.glob("**/*.safetensors")
    found = load_file(file)
    for layer in (0, 1, 2):
        wanted = expected[f"model.layers.{layer}.mlp.down_proj"].half().float()
        assert torch.equal(found[f"layers.{layer}.mlp.down.weight"], wanted), f"layer {layer}"


@case(77, "GPTQ, AWQ, compressed-tensors int8 and FP8, with keys that nothing reads")
def formats(folder: Path) -> None:
    """Dequantized exactly."""
    for way in ("gptq", "awq", "int8", "fp8"):
        model, expected = _checkpoint(folder, way, unread="key", modules_to_not_convert=None)
        _exact(model, expected)


@case(78, "formats that are not read")
def unread_formats(folder: Path) -> None:
    """Each is refused by its name, before anything is read."""
    for said, words in (
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True}, "desc_act"),
        ({"quant_method": "gptq", "bits": 8, "group_size": 128}, "8"),
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "checkpoint_format": "gptq_v2"}, "gptq_v2"),
        ({"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemv"}, "gemv"),
        ({"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "config_groups": {}}, "nvfp4"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "bitsandbytes"),
        ({"quant_method": "fbgemm_fp8"}, "fbgemm_fp8"),
        ({"quant_method": "modelopt", "quant_algo": "FP8"}, "modelopt"),
        ({"quant_method": "hqq"}, "hqq"),
        ({"quant_method": "torchao"}, "torchao"),
    ):
        refused(plan(write(folder / str(said["quant_method"]), {DECLARED: said})), 4, words)


@case(79, "only quantize_config.json or quant_config.json says it")
def declared_beside(folder: Path) -> None:
    """Read, and the plan says where."""
    for way, file in (("gptq", "quantize_config.json"), ("awq", "quant_config.json")):
        model, expected = _checkpoint(folder, way)
        config = json.loads((model / "config.json").read_bytes())
        found = config.pop(DECLARED)
        write_json(model / "config.json", config)
        del found["quant_method"]
        if way == "awq":
            found = {"zero_point": True, "q_group_size": found["group_size"], "w_bit": 4, "version": "GEMM"}
        write_json(model / file, found)
        taken(plan(model), f"quantization as {file} says")
        _exact(model, expected)


@case(79, "quantized tensors, and no file that says how")
def undeclared(folder: Path) -> None:
    """The diagnosis names the tensors and what is missing."""
    model, _ = _checkpoint(folder, "gptq")
    config = json.loads((model / "config.json").read_bytes())
    del config[DECLARED]
    write_json(model / "config.json", config)
    refused(plan(model), 4, "quantized model", "qweight", f"`{DECLARED}`")


@case(79, "a declaration beside weights that are not quantized")
def declared_in_vain(folder: Path) -> None:
    """Without quantized tensors it has no effect."""
    model = write(folder / "model")
    write_json(model / "quantize_config.json", {"bits": 4, "group_size": 128})
    ran = plan(model)
    taken(ran)
    assert "quantization as" not in ran.out


@case(80, "only hf_quant_config.json (ModelOpt FP8)")
def modelopt(folder: Path) -> None:
    """File, program and format are named."""
    q = "model.layers.0.self_attn.q_proj"
    model = write(folder / "model", None, {f"{q}.weight_scale": weights(CONFIG)["model.norm.weight"][:1].float()})
    how = {"producer": {"name": "modelopt", "version": "0.29"}, "quantization": {"quant_algo": "FP8"}}
    write_json(model / "hf_quant_config.json", how)
    refused(plan(model), 4, "hf_quant_config.json", "modelopt", "FP8")


@case(81, "FP8 with k_scale and v_scale")
def cache_scales(folder: Path) -> None:
    """Left out, and the plan says so."""
    import torch

    model, expected = _checkpoint(folder, "fp8", kv_cache_scheme={"num_bits": 8, "type": "float"})
    at = "model.layers.{}.self_attn.{}"
    more = {at.format(i, name): torch.ones(1) for i in range(3) for name in ("k_scale", "v_scale")}
    _changed(model, "", more)
    taken(plan(model), "scales of a quantized KV cache are left out, 6 tensor(s)", "k_scale")
    _exact(model, expected)


@case(84, "no qzeros")
def no_zero_points(folder: Path) -> None:
    """The part is named, with the number of modules."""
    for way, name in (("gptq", "GPTQ"), ("awq", "AutoAWQ")):
        model, _ = _checkpoint(folder, way)
        _changed(model, ".qzeros", {})
        refused(plan(model), 3, f"{name}: expected `qzeros` beside every `qweight`", "21 of 21 modules")
