"""Properties of LMI's back ends besides TensorRT-LLM, by release; those of the server and of all handlers: options.py.

Sources, read in November 2026: engines/python/setup/djl_python/properties_manager/{vllm_rb,lmi_dist_rb,ds,tnx,hf,
scheduler_rb,sd_inf2}_properties.py of djl-serving at v0.26.0 to v0.29.0, on 0.30.0-dlc to 0.34.0-dlc, and at v0.35.0
and v0.36.0; for 0.25, deepspeed.py and transformers_neuronx.py at v0.25.0. From 0.32 on `vllm` passes any field of
vLLM's EngineArgs on: those of vLLM 0.6.4 that samples use, and the common ones of vllm/engine/arg_utils.py at 0.32.0.
"""

from __future__ import annotations

from compiler.lmi.images import Release
from compiler.lmi.options import V26, V27, V28, V29, V30, Kind, Option

V31, V32, V35, V36 = ((0, minor) for minor in (31, 32, 35, 36))
_FIRST: Release = (0, 25)
_REMOVED = "nothing: the handler was removed"


def _rows(kind: Kind, since: Release, names: str, until: Release | None = None) -> tuple[Option, ...]:
    """Properties `option.NAME` that the handler reads when it starts."""
    instead = _REMOVED if until else ""
    return tuple(Option(f"option.{name}", kind, "run", since, until, instead=instead) for name in names.split())


_ROLLING_VLLM = (
    *_rows("text", _FIRST, "quantize"),
    *_rows("int", _FIRST, "max_rolling_batch_prefill_tokens"),
    *_rows("text", V26, "load_format"),
    *_rows("int", V26, "max_model_len"),
    *_rows("bool", V27, "enforce_eager enable_lora"),
    *_rows("float", V27, "gpu_memory_utilization"),
    *_rows("int", V27, "max_loras max_lora_rank lora_extra_vocab_size max_cpu_loras"),
    *_rows("text", V27, "draft_model_id"),
    *_rows("int", V27, "spec_length"),
    *_rows("text", V28, "device"),
    *_rows("int", V29, "max_logprobs"),
    *_rows("float", V29, "cpu_offload_gb_per_gpu"),
    *_rows("bool", V29, "enable_chunked_prefill enable_prefix_caching bedrock_compat"),
    *_rows("bool", V30, "disable_sliding_window"),
    *_rows("text", V30, "limit_mm_per_prompt tokenizer_mode"),
    *_rows("bool", V31, "fully_sharded_loras"),
    *_rows("text", V31, "long_lora_scaling_factors lora_dtype"),
)

VLLM: tuple[Option, ...] = (
    *_ROLLING_VLLM,
    *_rows("bool", V30, "use_v2_block_manager"),
    *_rows("text", V30, "speculative_model speculative_model_quantization spec_decoding_acceptance_method"),
    *_rows("int", V30, "speculative_draft_tensor_parallel_size num_speculative_tokens speculative_max_model_len"),
    *_rows("int", V30, "speculative_disable_by_batch_size ngram_prompt_lookup_max ngram_prompt_lookup_min"),
    *_rows("float", V30, "typical_acceptance_sampler_posterior_threshold typical_acceptance_sampler_posterior_alpha"),
    *_rows("bool", V30, "disable_logprobs_during_spec_decoding"),
    *_rows("text", V30, "qlora_adapter_name_or_path"),
    *_rows("text", V31, "generation_config"),
    *_rows("bool", V32, "enable_auto_tool_choice enable_reasoning"),
    *_rows("text", V32, "tool_call_parser reasoning_parser chat_template chat_template_content_format"),
    *_rows("text", V32, "override_neuron_config preloaded_model"),
    *_rows("int", V32, "max_num_seqs max_num_batched_tokens tensor_parallel_size pipeline_parallel_size"),
    *_rows("float", V32, "cpu_offload_gb swap_space"),
    *_rows("int", V32, "seed block_size num_gpu_blocks_override max_parallel_loading_workers data_parallel_size"),
    *_rows("bool", V32, "disable_custom_all_reduce skip_tokenizer_init enable_expert_parallel disable_log_stats"),
    *_rows("bool", V32, "async_scheduling enable_sleep_mode disable_cascade_attn language_model_only"),
    *_rows("text", V32, "quantization kv_cache_dtype rope_scaling rope_theta hf_overrides tokenizer"),
    *_rows("text", V32, "served_model_name distributed_executor_backend worker_cls model_loader_extra_config"),
    *_rows("text", V32, "speculative_config kv_transfer_config compilation_config override_generation_config"),
    *_rows("text", V32, "additional_config scheduling_policy guided_decoding_backend structured_outputs_config"),
    *_rows("text", V32, "mm_processor_kwargs media_io_kwargs attention_backend optimization_level download_dir"),
    *_rows("text", V32, "config_format code_revision model_impl runner convert logits_processors logprobs_mode"),
    *_rows("text", V32, "preemption_mode ignore_patterns pooler_config tokenizer_revision"),
    *_rows("int", V32, "max_seq_len_to_capture num_scheduler_steps long_prefill_token_threshold stream_interval"),
    *_rows("int", V31, "awq_block_size calib_size"),
    *_rows("text", V31, "fp8_scheme"),
    *_rows("text", V35, "lmcache_config_file"),
    *_rows("bool", V36, "lmcache_auto_config"),
)
LMI_DIST: tuple[Option, ...] = (
    *_ROLLING_VLLM,
    *_rows("bool", _FIRST, "paged_attention"),
    *_rows("text", V27, "speculative_draft_model"),
    *_rows("int", V27, "speculative_length draft_model_tp_size"),
    *_rows("bool", V27, "record_acceptance_rate"),
    *_rows("bool", V29, "speculative_telemetry"),
    *_rows("bool", V30, "use_passive_workers"),
)
DEEPSPEED: tuple[Option, ...] = (
    *_rows("text", _FIRST, "quantize", V28),
    *_rows("float", _FIRST, "smoothquant_alpha", V28),
    *_rows("int", _FIRST, "max_tokens training_mp_size", V28),
    *_rows("bool", _FIRST, "low_cpu_mem_usage enable_cuda_graph triangular_masking return_tuple", V28),
    *_rows("text", _FIRST, "checkpoint save_mp_checkpoint_path ds_config deepspeed_config_path", V28),
)
NEURONX: tuple[Option, ...] = (
    *_rows("int", _FIRST, "n_positions", V35),
    *_rows("text", _FIRST, "unroll neuron_optimize_level context_length_estimate amp quantize", V35),
    *_rows("text", _FIRST, "compiled_graph_path save_mp_checkpoint_path", V35),
    *_rows("bool", _FIRST, "load_in_8bit low_cpu_mem_usage load_split_model", V35),
    *_rows("bool", _FIRST, "use_stable_diffusion", V35),
    *_rows("int", _FIRST, "height width num_images_per_prompt", V35),
    *_rows("text", V26, "group_query_attention", V35),
    *_rows("bool", V26, "enable_mixed_precision_accumulation", V35),
    *_rows("bool", V27, "enable_saturate_infinity fuse_qkv on_device_embedding", V35),
    *_rows("text", V27, "model_loader rolling_batch_strategy collectives_layout partition_schema", V35),
    *_rows("text", V28, "draft_model_compiled_path speculative_draft_model attention_layout cache_layout", V35),
    *_rows("text", V28, "all_reduce_dtype cast_logits_dtype on_device_embedding_config", V35),
    *_rows("int", V28, "speculative_length draft_model_tp_size max_model_len", V35),
    *_rows("bool", V30, "fuse_mlp fused_rmsnorm_qkv qkv_tiling weight_tiling shard_over_sequence", V35),
    *_rows("text", V30, "on_device_generation", V35),
    *_rows("bool", V31, "mlp_out_weight_transpose sequence_parallel multi_node neuron_quant", V35),
    *_rows("int", V31, "sequence_parallel_norm_threshold compilation_worker_count neuron_cc_pipeline_factor", V35),
)
ACCELERATE: tuple[Option, ...] = (
    *_rows("text", _FIRST, "quantize device_map device decoding_strategy multi_gpu"),
    *_rows("bool", _FIRST, "load_in_4bit load_in_8bit low_cpu_mem_usage disable_flash_attn"),
    *_rows("float", _FIRST, "max_sparsity"),
    *_rows("int", _FIRST, "max_splits"),
    *_rows("text", V28, "data_type"),
    *_rows("int", V29, "cluster_size"),
    *_rows("text", V29, "image_placeholder_token"),
    *_rows("bool", V30, "is_peft_model"),
)
