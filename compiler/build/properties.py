"""Quantisation as a serving.properties of LMI asks for it, in the words of this project."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.errors import RefusedError, UsageError
from compiler.lmi.images import trtllm_image
from compiler.lmi.properties import parse
from compiler.lmi.quantize import quantisation
from compiler.quantization.formats.int4 import GROUP
from compiler.quantization.request import ALPHA, Cache, Quant, Text, scheme_of

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.lmi.images import Release

RELEASE: Release = (0, 29)
"""Whose words a file is read in where no image is named: they hold from 0.28 to 0.32."""

_SCHEMES: dict[str, tuple[str, bool | None, bool | None]] = {
    # by TensorRT-LLM's name: scheme, per token, per channel
    "": ("none", None, None),
    "W8A16": ("int8-weight", None, None),
    "W4A16": ("int4-weight", None, None),
    "W4A16_AWQ": ("awq", None, None),
    "FP8": ("fp8", False, False),
    "FP8_PER_CHANNEL_PER_TOKEN": ("fp8", True, True),
    "W8A8_SQ_PER_CHANNEL": ("smoothquant", False, True),
    "W8A8_SQ_PER_TENSOR_PLUGIN": ("smoothquant", False, False),
    "W8A8_SQ_PER_TENSOR_PER_TOKEN_PLUGIN": ("smoothquant", True, False),
    "W8A8_SQ_PER_CHANNEL_PER_TENSOR_PLUGIN": ("smoothquant", False, True),
    "W8A8_SQ_PER_CHANNEL_PER_TOKEN_PLUGIN": ("smoothquant", True, True),
}
_CACHES: dict[str, Cache] = {"": "", "INT8": "int8", "FP8": "fp8"}

PER_TENSOR = (
    "this configuration leaves out `option.smoothquant_per_token` and `option.smoothquant_per_channel`, which asks for "
    "one scale a tensor. Llama 2 13B went from 54.5 to 29.4 in MMLU by that (TensorRT-LLM issue 1618); the gate of a "
    "build says what this model loses. Set both to true to lose little"
)


def asked_by(file: Path, image: str, text: Text) -> tuple[Quant, list[str]]:
    """What the serving.properties `file` asks for, and what to warn of. `image`: of LMI, that it is for; "" where it
    is not said. `text`: what to calibrate on, but for the number of samples where the file names one.

    Raises UsageError (no such file, a property that does not exist or fit), RefusedError (nothing of ours is the same).
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(
            f"`--from-properties {file}` cannot be read: {error.strerror}", hint="it takes a serving.properties"
        ) from None
    found = quantisation(parse(data, trtllm_image(image).release if image else RELEASE))
    if found.quant_algo not in _SCHEMES or found.kv_cache_quant_algo not in _CACHES:
        raise RefusedError(
            f"{file} asks for {found.quant_algo} {found.kv_cache_quant_algo}".rstrip(),
            hint=f"these are understood: {', '.join(filter(None, [*_SCHEMES, *_CACHES]))}",
        )
    if found.group_size not in (None, GROUP):
        raise RefusedError(
            f"{file} asks for groups of {found.group_size} weights; expected {GROUP}", hint="leave the size out"
        )
    name, per_token, per_channel = _SCHEMES[found.quant_algo]
    text = Text(text.file, found.calibration_size or text.samples, text.length)
    scheme = scheme_of(name, per_token=per_token, per_channel=per_channel)
    alpha = ALPHA if found.alpha is None else found.alpha
    warnings = [PER_TENSOR] if found.quant_algo == "W8A8_SQ_PER_TENSOR_PLUGIN" else []
    return Quant(scheme, alpha, _CACHES[found.kv_cache_quant_algo], text), warnings
