"""Properties and values of LMI's other back ends, and other spellings of a serving.properties.

They are right in a container of that back end; no target of this project compiles for one.

Sources: serving/docs/lmi/user_guides/{vllm,lmi-dist,tnx,deepspeed}_user_guide.md and hf_accelerate.md at their last
version before 0.33; serving/docs/configurations_large_model_inference_containers.md at v0.25.0 (aliases, engines);
serving/docs/lmi/deployment_guide/configurations.md and serving/docker/dockerd-entrypoint.sh at v0.29.0 (environment).
`vllm` passes any other engine argument of vLLM through: the table has those of vLLM 0.6 that samples use.
"""

from __future__ import annotations

from collections.abc import Mapping

from compiler.quantization.vendors import (
    ACCELERATE_QUANTIZE,
    DEEPSPEED_QUANTIZE,
    NEURON_QUANTIZE,
    ROUNDED_DTYPE,
    VLLM_QUANTIZE,
)

VLLM = "vLLM and lmi-dist"
NEURON = "Transformers-NeuronX"
DEEPSPEED = "DeepSpeed"
ACCELERATE = "Hugging Face Accelerate"

_NAMES: Mapping[str, str] = {
    VLLM: "max_model_len max_rolling_batch_prefill_tokens max_num_batched_tokens max_num_seqs enforce_eager "
    "gpu_memory_utilization speculative_draft_model speculative_model num_speculative_tokens draft_model_tp_size "
    "speculative_length record_acceptance_rate enable_lora max_loras max_lora_rank lora_extra_vocab_size max_cpu_loras "
    "lora_dtype fully_sharded_loras long_lora_scaling_factors cpu_offload_gb_per_gpu cpu_offload_gb swap_space "
    "enable_prefix_caching disable_sliding_window use_v2_block_manager paged_attention quantization kv_cache_dtype "
    "block_size tensor_parallel_size rope_scaling rope_theta max_seq_len_to_capture max_context_len_to_capture "
    "disable_custom_all_reduce limit_mm_per_prompt max_logprobs preemption_mode scheduler_delay_factor "
    "num_scheduler_steps guided_decoding_backend tool_call_parser enable_auto_tool_choice chat_template "
    "served_model_name distributed_executor_backend worker_use_ray model_loader_extra_config seed",
    NEURON: "n_positions unroll neuron_optimize_level context_length_estimate load_split_model compiled_graph_path "
    "group_query_attention enable_mixed_precision_accumulation enable_saturate_infinity amp save_mp_checkpoint_path "
    "model_loader partition_schema rolling_batch_strategy fuse_qkv fuse_mlp on_device_embedding "
    "on_device_embedding_config on_device_generation collectives_layout attention_layout cache_layout "
    "all_reduce_dtype cast_logits_dtype neuron_quant draft_model_compiled_path sequence_parallel "
    "compilation_worker_count",
    DEEPSPEED: "enable_cuda_graph triangular_masking return_tuple training_mp_size checkpoint replace_method "
    "ds_config injection_policy",
    ACCELERATE: "task low_cpu_mem_usage load_in_4bit load_in_8bit device_map disable_flash_attn decoding_strategy "
    "max_sparsity max_splits enable_streaming",
}

BACKEND_OF: Mapping[str, str] = {f"option.{name}": back for back, names in _NAMES.items() for name in names.split()}
"""Back end of each property that TensorRT-LLM's has not, by full name."""

BACKEND_VALUES: Mapping[str, Mapping[str, str]] = {
    "engine": {name: name for name in ("DeepSpeed", "FasterTransformer", "PyTorch", "OnnxRuntime", "TensorFlow")},
    "option.rolling_batch": {
        "vllm": VLLM, "lmi-dist": VLLM, "deepspeed": DEEPSPEED, "scheduler": ACCELERATE, "neuron": NEURON,
        "tnx": NEURON,
    },
    "option.quantize": {
        **dict.fromkeys(VLLM_QUANTIZE, VLLM), **dict.fromkeys(ACCELERATE_QUANTIZE, ACCELERATE),
        **dict.fromkeys(DEEPSPEED_QUANTIZE, DEEPSPEED), **dict.fromkeys(NEURON_QUANTIZE, NEURON),
    },
    "option.entryPoint": {
        "djl_python.deepspeed": DEEPSPEED, "djl_python.fastertransformer": "FasterTransformer",
        "djl_python.huggingface": ACCELERATE, "djl_python.transformers_neuronx": NEURON,
        "djl_python.lmi_vllm.vllm_async_service": VLLM,
    },
    "option.dtype": {ROUNDED_DTYPE: f"{DEEPSPEED} and {ACCELERATE}"},
}  # fmt: skip
"""Back end of each value that selects another one, by property."""

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


def property_of_variable(name: str) -> str:
    """Property that the environment variable `name` stands for; "" if it is none of the container's."""
    if name in ENVIRONMENT:
        return ENVIRONMENT[name]
    prefix, _, rest = name.partition("_")
    if name == name.upper() and rest:
        return {"OPTION": f"option.{rest.lower()}", "SERVING": rest.lower()}.get(prefix, "")
    return ""
