"""Names of quantizations in TensorRT-LLM (`QuantAlgo`), which LMI's serving.properties uses too, and in LMI alone.

Names such as W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN have the scales of weights first, then those of activations.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from compiler.quantization.scaling import Divides
from compiler.quantization.schemes import SCHEMES, SMOOTH, Per, Scheme


@dataclass(frozen=True)
class VendorScheme:
    """A quantization by its vendor's name.

    `scheme`: name in `schemes.SCHEMES`, "" for none. `dense`, `experts`: schemes that it runs in models without and
    with experts. `weight_scales`, `activation_scales`: override the request; None: as requested. `since`: first
    supported version of TensorRT-LLM. `rounded_at_load`: files hold floating-point weights, which the loader rounds.
    `divides`, `one_scale`: see `Scaling`. `plugin`: runs in the plugin's model classes. `quantize`, `q_format`: options
    of LMI 0.25 to 0.32 that select it, "" where none does. `unverified`: reason why builds refuse it, "" where they do
    not.
    """

    name: str
    scheme: str
    since: tuple[int, int, int]
    dense: tuple[str, ...] = ()
    experts: tuple[str, ...] = ()
    weight_scales: Per | None = None
    activation_scales: Per | None = None
    rounded_at_load: bool = False
    divides: Divides = "all"
    one_scale: bool = False
    plugin: bool = False
    quantize: str = ""
    q_format: str = ""
    unverified: str = ""

    @property
    def smooths(self) -> bool:
        """Whether it is a form of SmoothQuant."""
        return bool(self.scheme) and SCHEMES[self.scheme].search == SMOOTH

    @property
    def group(self) -> int | None:
        """Neighbors in a row that share a scale in its files; None: at least a whole row."""
        return None if self.rounded_at_load or not self.scheme else SCHEMES[self.scheme].group

    @property
    def per_channel(self) -> bool:
        return self.weight_scales == "channel"

    @property
    def per_token(self) -> bool:
        return self.activation_scales == "token"

    @property
    def flags(self) -> Mapping[str, Any]:
        """Fields of a `Scheme` that override the request."""
        found = {"weight_scales": self.weight_scales, "activation_scales": self.activation_scales}
        return {name: value for name, value in found.items() if value is not None}

    def runs(self, scheme: Scheme, *, experts: bool) -> bool:
        """Whether it runs `scheme` in a model with or without experts."""
        return scheme.name in (self.experts if experts else self.dense)


def _smooth_plugin(name: str, weights: Per, activations: Per) -> VendorScheme:
    return VendorScheme(
        name, "smoothquant", (0, 8, 0), ("smoothquant",), weight_scales=weights, activation_scales=activations,
        divides="norms", plugin=True, quantize="smoothquant",
    )  # fmt: skip


# Since 0.9 the loader rounds floating-point weights itself, row by row; 0.8 needs them in the order of its kernels.
# Four-bit rows lose too much, so dense models use groups, with inputs multiplied by 1.
_W8A16 = VendorScheme("W8A16", "int8-weight", (0, 9, 0), ("int8-weight",), ("int8-weight",), rounded_at_load=True)
_W4A16 = VendorScheme(
    "W4A16", "int4-weight", (0, 9, 0), (), ("int4-weight",), weight_scales="channel", rounded_at_load=True
)
_AWQ = VendorScheme(
    "W4A16_AWQ", "awq", (0, 9, 0), ("int4-weight", "gptq", "awq"), divides="inputs", quantize="awq", q_format="int4_awq"
)
_FP8 = VendorScheme(
    "FP8", "fp8", (0, 9, 0), ("fp8",), ("fp8",), weight_scales="tensor", activation_scales="tensor", one_scale=True,
    quantize="fp8",
)  # fmt: skip
_ROWS = VendorScheme(
    "FP8_PER_CHANNEL_PER_TOKEN", "fp8", (0, 12, 0), weight_scales="channel", activation_scales="token",
    unverified="which of its modules stay in floating point is not verified",
)  # fmt: skip
_NATIVE = VendorScheme(
    "W8A8_SQ_PER_CHANNEL", "smoothquant", (0, 8, 0), ("smoothquant",), weight_scales="channel",
    activation_scales="tensor", divides="inputs",
)  # fmt: skip

VENDOR_SCHEMES: Mapping[str, VendorScheme] = {
    row.name: row
    for row in (
        _W8A16,
        _W4A16,
        _AWQ,
        _FP8,
        _ROWS,
        _NATIVE,
        _smooth_plugin("W8A8_SQ_PER_TENSOR_PLUGIN", "tensor", "tensor"),
        _smooth_plugin("W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN", "tensor", "token"),
        _smooth_plugin("W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN", "channel", "tensor"),
        _smooth_plugin("W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN", "channel", "token"),
        VendorScheme(
            "W4A16_GPTQ", "", (0, 9, 0),
            unverified="that the loader takes packed weights with zeros in a portable order is not verified",
        ),
        VendorScheme(
            "W4A8_AWQ", "", (0, 9, 0), quantize="awq", q_format="w4a8_awq",
            unverified="the shapes of its second scales are not verified",
        ),
        VendorScheme("W8A16_GPTQ", "", (0, 15, 0), unverified="how its weights are stored is not verified"),
    )
}  # fmt: skip
"""Rows by name."""
W8A16, W4A16_AWQ, FP8, NATIVE = _W8A16.name, _AWQ.name, _FP8.name, _NATIVE.name

VENDOR_CACHES = {"INT8": "int8", "FP8": "fp8"}
"""TensorRT-LLM's names of quantized KV caches (`kv_cache_quant_algo`) -> formats."""

VLLM_QUANTIZE = ("gptq", "squeezellm", "marlin", "bitsandbytes", "compressed-tensors")
ACCELERATE_QUANTIZE = ("bitsandbytes4", "bitsandbytes8")
DEEPSPEED_QUANTIZE = ("dynamic_int8",)
NEURON_QUANTIZE = ("static_int8",)
"""Values of LMI's `option.quantize` that select another back end than TensorRT-LLM's, by back end."""
ROUNDED_DTYPE = "int8"
"""Value of LMI's `option.dtype` with which DeepSpeed and Accelerate round weights while they load them."""

_LOADED = (
    "awq gptq squeezellm marlin gptq_marlin gptq_marlin_24 awq_marlin compressed-tensors fbgemm_fp8 deepspeedfp "
    "modelopt auto-round quark torchao mxfp4"
)
VLLM_LOADED = frozenset(_LOADED.split())
"""Values of LMI's `option.quantize` with which vLLM loads a checkpoint that is quantized already."""
VLLM_LOADS: Mapping[str, tuple[int, int]] = {
    "awq": (0, 26), "gptq": (0, 27), "squeezellm": (0, 27), "deepspeedfp": (0, 28), "marlin": (0, 29),
    "gptq_marlin": (0, 29), "fp8": (0, 29), "fbgemm_fp8": (0, 29), "compressed-tensors": (0, 29),
    "modelopt": (0, 32), "bitsandbytes": (0, 32), "mxfp4": (0, 34), "auto-round": (0, 34), "quark": (0, 34),
    "torchao": (0, 34),
}  # fmt: skip
"""LMI release from which vLLM loads a checkpoint by `quant_method` of its config.json. Sources: VllmQuantizeMethods in
vllm_rb_properties.py of djl-serving at v0.26.0 to v0.29.0; later, and for compressed-tensors, vLLM's own list at the
version in the image.
"""
LMI_SCHEMES: Mapping[str, Mapping[str, str]] = {
    "vllm": {"fp8": "fp8"},
    "lmi-dist": {"fp8": "fp8"},
    "deepspeed": {"smoothquant": "smoothquant"},
    "neuronx": {"static_int8": "int8-weight", "True": "int8-weight"},
    "accelerate": {},
}
"""Scheme by LMI's back end and its value of `option.quantize` (or of `option.load_in_8bit`, as text), with which it
rounds weights when it starts.
"""
NEURON_SCHEME, NEURON_FORMAT = "int8-weight", "int8"
"""Scheme that graphs for NeuronCores have, and the format of their weights: transformers-neuronx' `static_int8`."""
JOB_SCHEMES: Mapping[str, str] = {"awq": "awq", "fp8": "fp8"}
"""Scheme by the value of `option.quantize` with which an optimization job of LMI's vLLM image rounds a model."""
VLLM_CACHES: Mapping[str, str] = {"auto": "", "fp8": "fp8", "fp8_e4m3": "fp8"}
"""Formats of KV caches by vLLM's `kv_cache_dtype`."""
COMPRESSED_TENSORS: Mapping[str, tuple[str, str]] = {
    "int4": ("int", "pack-quantized"),
    "int8": ("int", "int-quantized"),
    "fp8": ("float", "float-quantized"),
}
"""Type of weights, and format, in the compressed-tensors of a number format."""
