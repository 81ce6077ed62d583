"""LMI's back ends: which one a serving.properties selects, and what its properties mean for a build.

A back end is the library behind a handler. Properties that decide the artifact are options of a build under any
target; all others belong to the back end's own server.

Sources: serving/docs/lmi/user_guides/{vllm,lmi-dist,tnx,deepspeed}_user_guide.md and hf_accelerate.md at their last
version before 0.33; serving/docs/configurations_large_model_inference_containers.md at v0.25.0 (aliases, engines);
serving/docs/lmi/deployment_guide/configurations.md and serving/docker/dockerd-entrypoint.sh at v0.29.0 (environment);
LmiConfigRecommender.java (wlm) at v0.27.0 to v0.36.0 (batch sizes); properties: backend_options.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from compiler.errors import UsageError
from compiler.lmi import backend_options, effects
from compiler.lmi.images import TRTLLM, Kind, Release
from compiler.lmi.options import OPTIONS, SERVER, SHARED, Option
from compiler.quantization.vendors import (
    ACCELERATE_QUANTIZE,
    DEEPSPEED_QUANTIZE,
    NEURON_QUANTIZE,
    ROUNDED_DTYPE,
    VLLM_QUANTIZE,
)

BackendName = Literal["trtllm", "vllm", "lmi-dist", "deepspeed", "neuronx", "accelerate"]
_Allowed = Mapping[str, tuple[str | int | float | bool, ...]]


@dataclass(frozen=True)
class BackendTable:
    """Properties of one back end. `title`: its name in messages; `newest`: release whose names are assumed without an
    image; `rows`: default of `max_rolling_batch_size`, by the first release with it.

    Effects on a build, by property:
        used        option of the command line that it stands for
        fixed       values that this project's artifacts have; another needs another artifact
        features    values without the feature; another changes answers, and only the back end's own server has it
        no_effect   reason, where it is not that the back end's server reads it
        quantizes   decides the quantization
    """

    name: BackendName
    title: str
    newest: Release
    options: tuple[Option, ...]
    used: Mapping[str, str]
    fixed: _Allowed = field(default_factory=dict)
    features: _Allowed = field(default_factory=dict)
    no_effect: Mapping[str, str] = field(default_factory=dict)
    quantizes: frozenset[str] = frozenset()
    rows: Mapping[Release, int] = field(default_factory=lambda: {(0, 25): 32})

    @cached_property
    def by_name(self) -> Mapping[str, Option]:
        """Properties by full name."""
        return {option.name: option for option in self.options}

    def default_rows(self, release: Release) -> int:
        """Default of `option.max_rolling_batch_size` in a release."""
        return self.rows[max(first for first in self.rows if first <= release)]


_SELECTING = {"engine", "option.rolling_batch"}  # `backend_of` checks their values
_HANDLER = tuple(replace(option, choices=()) if option.name in _SELECTING else option for option in (*SERVER, *SHARED))
_COMMON = {
    "option.model_id": "model",
    "option.revision": "revision",
    "option.dtype": "dtype",
    "option.tensor_parallel_degree": "tp",
}
_LMI_ROWS = {"option.max_rolling_batch_size": "max_batch"}
_VLLM_USED = {
    **_COMMON,
    **_LMI_ROWS,
    "option.tensor_parallel_size": "tp",
    "option.pipeline_parallel_degree": "pp",
    "option.pipeline_parallel_size": "pp",
    "option.max_num_seqs": "max_batch",
    "option.max_model_len": "max_positions",
    "option.max_rolling_batch_prefill_tokens": "max_num_tokens",
    "option.max_num_batched_tokens": "max_num_tokens",
    "option.rope_scaling": "rope_scaling",
}
_TASK: _Allowed = {"option.task": ("text-generation", "generate", "auto", "conversational")}
_WEIGHTS: _Allowed = {
    **_TASK, "option.load_format": ("auto", "safetensors", "pt", "npcache", "mistral"),
}  # fmt: skip
_SERVED_FEATURES: _Allowed = {
    "option.enable_lora": (False,), "option.adapters": ("",), "option.qlora_adapter_name_or_path": ("",),
    "option.limit_mm_per_prompt": ("",), "option.hf_overrides": ("",), "option.rope_theta": ("",),
}  # fmt: skip
_CHECKPOINT = "`--output` names the folder"
_OF_JOB = dict.fromkeys(
    ("option.awq_block_size", "option.calib_size", "option.fp8_scheme"), "only an optimization job reads it"
)
_VLLM_ROWS = {(0, 25): 32, (0, 27): 256}
_NEURON_GRAPHS = "graphs of another compiler; this build makes its own"

TABLES: Mapping[str, BackendTable] = {
    table.name: table
    for table in (
        BackendTable(
            "trtllm", "TensorRT-LLM", (0, 29), OPTIONS, effects.USED,
            fixed={**effects.REFUSED_UNLESS, **_TASK, "option.adapters": ("",)},
            no_effect=effects.NO_EFFECT, quantizes=effects.QUANTIZATION, rows={(0, 25): 32, (0, 28): 256},
        ),
        BackendTable(
            "vllm", "vLLM", (0, 36), (*_HANDLER, *backend_options.VLLM), _VLLM_USED, fixed=_WEIGHTS,
            features=_SERVED_FEATURES, no_effect={**effects.EVERYWHERE, **_OF_JOB}, rows=_VLLM_ROWS,
            quantizes=frozenset({"option.quantize", "option.quantization", "option.kv_cache_dtype"}),
        ),
        BackendTable(
            "lmi-dist", "lmi-dist", (0, 32), (*_HANDLER, *backend_options.LMI_DIST), _VLLM_USED,
            fixed=_WEIGHTS, features=_SERVED_FEATURES, no_effect=effects.EVERYWHERE, rows=_VLLM_ROWS,
            quantizes=frozenset({"option.quantize"}),
        ),
        BackendTable(
            "deepspeed", "DeepSpeed", (0, 27), (*_HANDLER, *backend_options.DEEPSPEED),
            {**_COMMON, **_LMI_ROWS, "option.max_tokens": "max_positions"},
            fixed={
                **_TASK, "option.checkpoint": ("",), "option.ds_config": ("",), "option.deepspeed_config_path": ("",),
            },
            features={"option.adapters": ("",)},
            no_effect={**effects.EVERYWHERE, "option.save_mp_checkpoint_path": _CHECKPOINT},
            quantizes=frozenset({"option.quantize", "option.smoothquant_alpha"}),
        ),
        BackendTable(
            "neuronx", "Transformers-NeuronX", (0, 34), (*_HANDLER, *backend_options.NEURONX),
            {
                **_COMMON, **_LMI_ROWS, "option.batch_size": "max_batch", "option.n_positions": "max_positions",
                "option.max_model_len": "max_positions",
            },
            fixed={
                **_TASK, "option.use_stable_diffusion": (False,), "option.load_split_model": (False,),
                "option.neuron_quant": (False,),
            },
            features={"option.adapters": ("",)},
            no_effect={
                **effects.EVERYWHERE, "option.save_mp_checkpoint_path": _CHECKPOINT,
                "option.compiled_graph_path": _NEURON_GRAPHS, "option.draft_model_compiled_path": _NEURON_GRAPHS,
            },
            quantizes=frozenset({"option.quantize", "option.load_in_8bit"}),
        ),
        BackendTable(
            "accelerate", "Hugging Face Accelerate", (0, 36), (*_HANDLER, *backend_options.ACCELERATE),
            {**_COMMON, **_LMI_ROWS, "option.data_type": "dtype"},
            fixed={**_TASK, "option.load_in_8bit": (False,), "option.load_in_4bit": (False,)},
            features={"option.adapters": ("",), "option.is_peft_model": (False,)},
            no_effect=effects.EVERYWHERE, quantizes=frozenset({"option.quantize"}),
        ),
    )
}  # fmt: skip
"""Back ends by name."""

_SELECTED_BY: Mapping[str, Mapping[str, BackendName]] = {
    "engine": {"DeepSpeed": "deepspeed"},
    "option.rolling_batch": {
        "vllm": "vllm", "lmi-dist": "lmi-dist", "deepspeed": "deepspeed", "scheduler": "accelerate",
        "neuron": "neuronx", "tnx": "neuronx", "trtllm": "trtllm",
    },
    "option.entryPoint": {
        "djl_python.deepspeed": "deepspeed", "djl_python.transformers_neuronx": "neuronx",
        "djl_python.tensorrt_llm": "trtllm", "djl_python.lmi_trtllm.trtllm_async_service": "trtllm",
        "djl_python.lmi_vllm.vllm_async_service": "vllm",
    },
}  # fmt: skip
_HOST = "djl_python.huggingface"
"""Handler of several back ends; without a rolling batch it is Accelerate's."""
_OF_KIND: Mapping[Kind, BackendName] = {
    "tensorrtllm": "trtllm", "neuronx": "neuronx", "lmi": "vllm", "deepspeed": "deepspeed",
}  # fmt: skip
_OTHER_WORK: Mapping[str, Mapping[str, str]] = {
    "engine": {
        "Rust": "encoders and embeddings", "OnnxRuntime": "ONNX models", "PyTorch": "TorchScript models",
        "TensorFlow": "TensorFlow models", "FasterTransformer": "FasterTransformer's own checkpoints",
    },
    "option.entryPoint": {
        "djl_python.stable-diffusion": "diffusion models", "djl_python.fastertransformer": "its own checkpoints",
        "djl_python.sentence_transformer": "embeddings",
    },
}  # fmt: skip


def backend_of(entries: Mapping[str, str], kind: Kind | None, release: Release | None = None) -> BackendName:
    """Back end that the properties `entries` (text by full name) select in an image of that kind and release (None:
    unknown). Without a selection it is TensorRT-LLM, as long as its images are published, then vLLM.

    Raises UsageError for two that contradict each other, and for one that serves no decoder of text.
    """
    for name, work in _OTHER_WORK.items():
        if entries.get(name) in work:
            raise UsageError(
                f"`{name}={entries[name]}` serves {work[entries[name]]}; this project builds decoders of text",
                hint="such a model needs no build: deploy it as it is",
            )
    named = {name: values[entries[name]] for name, values in _SELECTED_BY.items() if entries.get(name) in values}
    # NeuronX's handler runs vLLM, too.
    if named.get("option.entryPoint") == "neuronx" and named.get("option.rolling_batch") in ("vllm", "neuronx"):
        return "neuronx"
    found = set(named.values())
    if len(found) > 1:
        first, *_, last = (f"`{name}={entries[name]}`" for name in named)
        raise UsageError(f"{first} and {last} select two back ends", hint="keep one of these properties")
    if found:
        return found.pop()
    if entries.get("option.entryPoint") == _HOST and entries.get("option.rolling_batch", "disable") == "disable":
        return "accelerate"
    if kind is not None:
        return _OF_KIND[kind]
    return "trtllm" if release is None or release in TRTLLM else "vllm"


def others_with(name: str, backend: str) -> list[str]:
    """Titles of the other back ends that have the property `name`."""
    return [table.title for table in TABLES.values() if table.name != backend and name in table.by_name]


BACKEND_VALUES: Mapping[str, Mapping[str, str]] = {
    name: {value: TABLES[backend].title for value, backend in values.items() if backend != "trtllm"}
    for name, values in _SELECTED_BY.items()
} | {
    "option.quantize": {
        **dict.fromkeys(VLLM_QUANTIZE, TABLES["vllm"].title),
        **dict.fromkeys(ACCELERATE_QUANTIZE, TABLES["accelerate"].title),
        **dict.fromkeys(DEEPSPEED_QUANTIZE, TABLES["deepspeed"].title),
        **dict.fromkeys(NEURON_QUANTIZE, TABLES["neuronx"].title),
    },
    "option.dtype": {ROUNDED_DTYPE: f"{TABLES['deepspeed'].title} and {TABLES['accelerate'].title}"},
}  # fmt: skip
"""Back end of each value that selects another one than TensorRT-LLM, by property."""

INSTEAD: Mapping[str, str] = {
    "option.max_model_len": "`option.max_input_len` and `option.max_output_len` have the lengths of an engine",
    "option.n_positions": "`option.max_input_len` and `option.max_output_len` have the lengths of an engine",
    "option.tensor_parallel_size": "write `option.tensor_parallel_degree`",
    "option.quantization": "write `option.quantize`",
    "option.max_num_seqs": "write `option.max_rolling_batch_size`",
    "option.max_num_batched_tokens": "write `option.max_num_tokens`",
    "option.max_rolling_batch_prefill_tokens": "write `option.max_num_tokens`",
    "option.gpu_memory_utilization": "write `option.kv_cache_free_gpu_mem_fraction`",
    "option.enable_prefix_caching": "write `option.enable_kv_cache_reuse`",
    "option.rope_scaling": "pass `--rope-scaling`",
}
"""Nearest equivalent of a property of another back end."""

RENAMED: Mapping[str, str] = {"option.s3url": "option.model_id", "option.entrypoint": "option.entryPoint"}
"""Old or wrong spellings of a property."""

ENVIRONMENT: Mapping[str, str] = {
    "HF_MODEL_ID": "option.model_id",
    "HF_REVISION": "option.revision",
    "HF_MODEL_REVISION": "option.revision",
    "HF_MODEL_TRUST_REMOTE_CODE": "option.trust_remote_code",
    "HF_MODEL_QUANTIZE": "option.quantize",
    "TENSOR_PARALLEL_DEGREE": "option.tensor_parallel_degree",
    "SM_NUM_GPUS": "option.tensor_parallel_degree",
    "MAX_BATCH_SIZE": "option.max_rolling_batch_size",
    "MAX_CONCURRENT_REQUESTS": "job_queue_size",
    "CUDA_MEMORY_FRACTION": "option.kv_cache_free_gpu_mem_fraction",
    "OPTION_ENGINE": "engine",
    "OPTION_ENTRYPOINT": "option.entryPoint",
}
"""Property that an environment variable of the container stands for."""


_SERVER = frozenset(option.name for option in SERVER)


def property_of_variable(name: str) -> str:
    """Property that the environment variable `name` stands for; "" if it is none of the container's."""
    if name in ENVIRONMENT:
        return ENVIRONMENT[name]
    prefix, _, rest = name.partition("_")
    if name != name.upper() or not rest:
        return ""
    if prefix == "OPTION":
        return f"option.{rest.lower()}"
    return rest.lower() if prefix == "SERVING" and rest.lower() in _SERVER else ""
