"""Quantization in a serving.properties of LMI, as a request of this project."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.errors import RefusedError, UsageError
from compiler.lmi.images import trtllm_image
from compiler.lmi.properties import parse
from compiler.lmi.quantize import quantization_of
from compiler.quantization.request import ALPHA, Quant, Text, scheme_of
from compiler.quantization.schemes import FLOAT, SCHEMES
from compiler.quantization.vendors import VENDOR_CACHES, VENDOR_SCHEMES, W4A16_AWQ

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.lmi.images import Release

RELEASE: Release = (0, 29)
"""Release whose property names are assumed if no image is named: they hold from 0.28 to 0.32."""

PER_TENSOR = (
    "this configuration leaves out `option.smoothquant_per_token` and `option.smoothquant_per_channel`, which means "
    "one scale per tensor. That took Llama 2 13B from 54.5 to 29.4 in MMLU (TensorRT-LLM issue 1618); the gate of "
    "a build reports the loss of this model. Set both to true for a small loss"
)


def quant_of_properties(file: Path, image: str, text: Text) -> tuple[Quant, list[str]]:
    """Quantization of the serving.properties `file`, and warnings. `image`: LMI image that it is for, "" for RELEASE.
    `text`: calibration text; the file may override the number of samples.

    Raises UsageError (unreadable file, unknown or contradictory property), RefusedError (no scheme here is the same).
    """
    try:
        data = file.read_bytes()
    except OSError as error:
        raise UsageError(
            f"`--from-properties {file}` cannot be read: {error.strerror}", hint="it takes a serving.properties"
        ) from None
    found = quantization_of(parse(data, trtllm_image(image).release if image else RELEASE))
    named = {name: row for name, row in VENDOR_SCHEMES.items() if row.scheme}
    caches = {"": "", **VENDOR_CACHES}
    if found.quant_algo not in ("", *named) or found.kv_cache_quant_algo not in caches:
        raise RefusedError(
            f"{file}: cannot quantize to {found.quant_algo} {found.kv_cache_quant_algo}".rstrip(),
            hint=f"supported: {', '.join([*named, *VENDOR_CACHES])}",
        )
    row = named.get(found.quant_algo)
    group = VENDOR_SCHEMES[W4A16_AWQ].group
    if found.group_size not in (None, group):
        raise RefusedError(
            f"{file}: expected groups of {group} weights; found {found.group_size}", hint="leave the group size out"
        )
    scheme = None
    if row is not None:
        flags = SCHEMES[row.scheme].activations != FLOAT
        scheme = scheme_of(
            row.scheme,
            per_token=row.per_token if flags else None,
            per_channel=row.per_channel if flags else None,
        )
    text = Text(text.file, found.calibration_size or text.samples, text.length)
    alpha = ALPHA if found.alpha is None else found.alpha
    coarse = row is not None and row.plugin and not (row.per_channel or row.per_token)
    return Quant(scheme, alpha, caches[found.kv_cache_quant_algo], text), [PER_TENSOR] if coarse else []
