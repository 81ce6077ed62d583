"""Quantization that a serving.properties asks for, as a request of a build.

TensorRT-LLM quantizes when it compiles. vLLM and lmi-dist load checkpoints that are quantized already, but for the
schemes that they round with at start-up; DeepSpeed and NeuronX round at start-up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from compiler.errors import RefusedError
from compiler.lmi.backends import TABLES
from compiler.lmi.effects import QUANTIZATION
from compiler.lmi.properties import Properties, Value
from compiler.lmi.quantize import quantization_of
from compiler.quantization.request import ALPHA, Quant, Text, scheme_of
from compiler.quantization.schemes import FLOAT, SCHEMES
from compiler.quantization.vendors import (
    JOB_SCHEMES,
    LMI_SCHEMES,
    VENDOR_CACHES,
    VENDOR_SCHEMES,
    VLLM_CACHES,
    VLLM_LOADED,
)

if TYPE_CHECKING:
    from compiler.lmi.backends import BackendName
    from compiler.lmi.images import Release

PER_TENSOR = (
    "this configuration leaves out `option.smoothquant_per_token` and `option.smoothquant_per_channel`, which means "
    "one scale per tensor. That took Llama 2 13B from 54.5 to 29.4 in MMLU (TensorRT-LLM issue 1618); the gate of "
    "a build reports the loss of this model. Set both to true for a small loss"
)
AS_DECLARED = "`option.quantize={}` means that the checkpoint is quantized already: its config.json decides"


def quant_of_properties(
    typed: Mapping[str, Value], backend: BackendName, release: Release, text: Text, *, job: bool = False
) -> tuple[Quant, list[str]]:
    """Quantization of the properties `typed` by full name, and warnings. `job`: those of an optimization job, in which
    vLLM's `option.quantize` is an order and not a statement about the checkpoint. Raises UsageError, RefusedError.
    """
    if backend == "trtllm":
        return _compiled(typed, release, text)
    method = next(
        (str(typed[name]) for name in ("option.quantize", "option.quantization") if typed.get(name)),
        str(typed.get("option.load_in_8bit", "")) if typed.get("option.load_in_8bit") else "",
    )
    cache = str(typed.get("option.kv_cache_dtype", "auto"))
    if cache not in VLLM_CACHES:
        raise RefusedError(
            f"`option.kv_cache_dtype` is one of {', '.join(VLLM_CACHES)} here; found `{cache}`", hint="leave it out"
        )
    quant = Quant(text=text, cache=VLLM_CACHES[cache])
    schemes = JOB_SCHEMES if job and backend in ("vllm", "lmi-dist") else LMI_SCHEMES[backend]
    if not job and method in VLLM_LOADED and backend in ("vllm", "lmi-dist"):
        return quant, [AS_DECLARED.format(method)]
    if not method:
        return quant, []
    if method not in schemes:
        known = ", ".join(schemes) or "no value"
        raise RefusedError(
            f"`option.quantize={method}` rounds as {TABLES[backend].title} does at start-up, which nothing here does",
            hint=f"supported for {TABLES[backend].title}: {known}; or choose a scheme with `--quant` and remove it",
        )
    alpha = typed.get("option.smoothquant_alpha")
    scheme = scheme_of(schemes[method])
    return replace(quant, scheme=scheme, alpha=ALPHA if alpha is None else float(alpha)), []


def _compiled(typed: Mapping[str, Value], release: Release, text: Text) -> tuple[Quant, list[str]]:
    """Quantization by TensorRT-LLM's properties."""
    found = quantization_of(Properties(release, {name: typed[name] for name in QUANTIZATION if name in typed}))
    named = {name: row for name, row in VENDOR_SCHEMES.items() if row.scheme}
    caches = {"": "", **VENDOR_CACHES}
    if found.quant_algo not in ("", *named) or found.kv_cache_quant_algo not in caches:
        raise RefusedError(
            f"cannot quantize to {found.quant_algo} {found.kv_cache_quant_algo}".rstrip(),
            hint=f"supported: {', '.join([*named, *VENDOR_CACHES])}",
        )
    row = named.get(found.quant_algo)
    scheme = None
    if row is not None:
        flags = SCHEMES[row.scheme].activations != FLOAT
        scheme = scheme_of(
            row.scheme,
            per_token=row.per_token if flags else None,
            per_channel=row.per_channel if flags else None,
        )
    length = typed.get("option.calib_max_seq_length")
    text = replace(
        text,
        samples=found.calibration_size or text.samples,
        length=text.length if length is None else int(length),
    )
    alpha = ALPHA if found.alpha is None else found.alpha
    coarse = row is not None and row.plugin and not (row.per_channel or row.per_token)
    group = found.group_size if scheme is not None and scheme.group is not None else None
    quant = Quant(scheme, alpha, caches[found.kv_cache_quant_algo], text, group=group)
    return quant, [PER_TENSOR] if coarse else []
