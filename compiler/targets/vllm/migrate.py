"""Migration to target `vllm`, from an artifact of target `trtllm` or from a serving.properties for TensorRT-LLM.

Every property has a row: its name for an LMI image with vLLM, or the reason why it has none. Properties without a row
are named too. Sources, read in November 2026: compiler/lmi/options.py for the properties of LMI 0.25 to 0.33;
engines/python/setup/djl_python/properties_manager/vllm_rb_properties.py of djl-serving on 0.36.0-dlc for those of vLLM.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.artifact.manifest import MANIFEST, load_manifest
from compiler.errors import ArtifactError, UsageError
from compiler.lmi import java_properties
from compiler.lmi.properties import SERVING_PROPERTIES
from compiler.quantization.vendors import VENDOR_SCHEMES
from compiler.targets.values import Migration

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from compiler.artifact.manifest import Manifest

_KEPT: Mapping[str, str] = {
    "engine": "engine",
    "job_queue_size": "job_queue_size",
    "max_idle_time": "max_idle_time",
    "minWorkers": "minWorkers",
    "maxWorkers": "maxWorkers",
    "load_on_devices": "load_on_devices",
    "option.model_loading_timeout": "option.model_loading_timeout",
    "option.predict_timeout": "option.predict_timeout",
    "option.tensor_parallel_degree": "option.tensor_parallel_degree",
    "option.pipeline_parallel_degree": "option.pipeline_parallel_degree",
    "option.pipeline_parallel_size": "option.pipeline_parallel_degree",
    "option.max_rolling_batch_size": "option.max_rolling_batch_size",
    "option.max_batch_size": "option.max_rolling_batch_size",
    "option.max_num_sequences": "option.max_rolling_batch_size",
    "option.max_num_tokens": "option.max_rolling_batch_prefill_tokens",
    "option.max_seq_len": "option.max_model_len",
    "option.dtype": "option.dtype",
    "option.trust_remote_code": "option.trust_remote_code",
    "option.revision": "option.revision",
    "option.output_formatter": "option.output_formatter",
    "option.tgi_compat": "option.tgi_compat",
    "option.tokenizer": "option.tokenizer",
    "option.enable_kv_cache_reuse": "option.enable_prefix_caching",
    "option.enable_block_reuse": "option.enable_prefix_caching",
}
"""Property for TensorRT-LLM -> property for vLLM with the same meaning."""

_WITHOUT: Mapping[str, str] = {
    "option.rolling_batch": "LMI 22 and later start vLLM's own asynchronous engine",
    "option.entryPoint": "the image's own entry point starts vLLM",
    "option.mpi_mode": "vLLM starts its ranks itself",
    "option.async_mode": "always on",
    "option.parallel_loading": "vLLM starts its ranks itself",
    "option.model_id": "the artifact is the model's folder; a path elsewhere is another cache key",
    "option.batch_scheduler_policy": "vLLM has one policy of its scheduler for all batches",
    "option.kv_cache_free_gpu_mem_fraction": "a share of the memory that is free after loading; vLLM's "
    "`option.gpu_memory_utilization` is a share of all memory, weights included: choose it anew",
    "option.free_gpu_memory_fraction": "a share of the memory that is free after loading; vLLM's "
    "`option.gpu_memory_utilization` is a share of all memory, weights included: choose it anew",
    "option.enable_trt_overlap": "vLLM overlaps steps by itself",
    "option.use_custom_all_reduce": "vLLM chooses its all-reduce by itself",
    "option.multi_block_mode": "vLLM chooses its attention kernel by itself",
    "option.use_fused_mlp": "vLLM's layers are fused already",
    "option.tokens_per_block": "vLLM's blocks are another unit; the bake fixes `option.block_size`",
    "option.logits_dtype": "vLLM computes logits in float32",
    "option.max_beam_width": "vLLM's server has no beam search with a fixed width",
    "option.gemm_plugin": "a choice of TensorRT-LLM's builder",
    "option.gpt_attention_plugin": "a choice of TensorRT-LLM's builder",
    "option.use_paged_context_fmha": "vLLM's cache is always paged",
    "option.kv_cache_type": "vLLM's cache is always paged",
    "option.opt_num_tokens": "a choice of TensorRT-LLM's builder",
    "option.backend": "names a back end of TensorRT-LLM",
    "option.env": "variables for TensorRT-LLM; those of vLLM are written by the build",
}
"""Property without a counterpart -> reason."""

_LENGTHS = ("option.max_input_len", "option.max_output_len")
"""Together the row's length, `option.max_model_len`."""
_QUANT: Mapping[str, str] = {
    name: f"--quant {row.scheme}"
    for row in VENDOR_SCHEMES.values()
    for name in (row.quantize, row.name)
    if name and row.scheme
}
"""Value of option.quantize or option.quant_algo -> option of the build."""
_QUANTIZED = ("option.quantize", "option.quant_algo")
_CALIBRATED = (
    "smoothquant_", "multi_query", "awq_", "calib", "q_format", "group_size", "clamp_val", "use_meta_recipe",
    "has_zero_point", "pre_quant", "exclude_modules", "random_seed", "kv_cache_quant", "use_fp8_context",
    "tokenizer_max",
)  # fmt: skip
"""Beginnings of properties of quantization, which the build's own options replace."""


def migration(source: Path) -> Migration:
    """Migration of the artifact in the folder `source`, or of a serving.properties. Raises LmiCompileError."""
    manifest = load_manifest(source) if (source / MANIFEST).is_file() else None
    return migrated(manifest, read_properties(source))


def migrated(manifest: Manifest | None, entries: Mapping[str, str]) -> Migration:
    """Migration of an artifact's manifest (None: only a file was given) and the entries of its serving.properties.

    Raises UsageError where nothing names the model, ArtifactError for an artifact of another target.
    """
    if manifest is not None and manifest.target != "trtllm":
        raise ArtifactError(
            f"`{manifest.name}` is of target `{manifest.target}`; only artifacts of `trtllm` are migrated",
            hint="build the model anew with `--target vllm`",
        )
    properties: dict[str, str] = {}
    mapped, dropped = [], []
    for name, value in entries.items():
        for place, text in _one(name, value, entries):
            if place:
                properties[place] = text
                mapped.append(f"{name}={value} -> {place}={text}")
            else:
                dropped.append(f"{name}={value}: {text}")
    argv, warnings = _argv(manifest, entries, properties)
    return Migration(argv, properties, tuple(mapped), tuple(dropped), tuple(warnings))


def _one(name: str, value: str, entries: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Property and value for vLLM; or "" and the reason."""
    if name in _LENGTHS:
        if all(each in entries for each in _LENGTHS):
            yield "option.max_model_len", str(sum(_tokens(each, entries[each]) for each in _LENGTHS))
        else:
            yield "", f"a row's length is {' and '.join(_LENGTHS)} together: pass `--max-positions`"
    elif name == "engine":
        yield "engine", "Python"
    elif name in _KEPT:
        yield _KEPT[name], value
    elif name in _QUANTIZED and value in _QUANT:
        yield "", f"`{_QUANT[value]}` of the build replaces it"
    elif name.removeprefix("option.").startswith(_CALIBRATED):
        yield "", "the build's own options of quantization replace it"
    else:
        yield "", _WITHOUT.get(name, "no property of an LMI image with vLLM has this meaning")


def _tokens(name: str, value: str) -> int:
    """Number of tokens. Raises UsageError."""
    if not value.strip().isdecimal():
        raise UsageError(f"`{name}` takes a number of tokens; found `{value}`", hint="correct the file")
    return int(value)


def _argv(
    manifest: Manifest | None, entries: Mapping[str, str], properties: Mapping[str, str]
) -> tuple[tuple[str, ...], list[str]]:
    """Command line of the build, and warnings."""
    warnings = []
    model = (manifest.model.repo_id if manifest else None) or entries.get("option.model_id", "")
    if manifest is not None and not model:
        model = "MODEL"
        warnings.append(f"the source of `{manifest.name}` is a local folder, whose path the manifest does not have")
    if not model:
        raise UsageError(
            "neither a manifest nor `option.model_id` names the model",
            hint="pass the folder of an artifact, or add `option.model_id` to the file",
        )
    revision = manifest.model.revision if manifest else entries.get("option.revision")
    quant = next((_QUANT[entries[name]] for name in _QUANTIZED if entries.get(name) in _QUANT), "")
    if manifest is not None and manifest.quantisation is not None and not quant:
        warnings.append("the artifact is quantized: choose `--quant` for vLLM")
    tp = str(manifest.parallel.tp) if manifest else properties.get("option.tensor_parallel_degree", "1")
    length = str(manifest.limits.max_positions) if manifest else properties.get("option.max_model_len")
    rows = str(manifest.limits.max_batch) if manifest else properties.get("option.max_rolling_batch_size")
    options = {
        "--model": model, "--revision": revision, "--tp": tp, "--max-positions": length, "--max-batch": rows,
        "--dtype": manifest.dtype if manifest else None,
    }  # fmt: skip
    words = [word for name, value in options.items() if value for word in (name, value)]
    return ("lmi-compile", "build", *words, *quant.split(), "--target", "vllm"), warnings


def read_properties(source: Path) -> dict[str, str]:
    """Entries of a serving.properties, or of that in the folder `source`; {} where it has none. Raises UsageError."""
    file = source / SERVING_PROPERTIES if source.is_dir() else source
    if source.is_dir() and not file.is_file():
        return {}
    try:
        return java_properties.parse(file.read_bytes().decode("latin-1"))
    except OSError as error:
        raise UsageError(
            f"cannot read {file}: {error.strerror}", hint="pass the folder of an artifact, or a serving.properties"
        ) from None
