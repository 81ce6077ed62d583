"""Table of the properties in a serving.properties for an LMI image with TensorRT-LLM.

Sources: serving/docs/configurations_large_model_inference_containers.md at v0.25.0 (v0.26.0: below serving/docs/lmi);
serving/docs/lmi/user_guides/trt_llm_user_guide.md at v0.27.0 to v0.29.0 and on 0.30.0-dlc to 0.32.0-dlc;
serving/docs/lmi/deployment_guide/configurations.md; for 0.33 the code that reads them, because its guide still shows
properties that the code ignores: serving/docker/partition/trt_llm_partition.py and
engines/python/setup/djl_python/properties_manager/{properties,trt_properties}.py on 0.33.0-dlc.

Up to 0.32 `tensorrt_llm_toolkit`, a wheel without public source, accepts any keyword. The table leaves out keywords
that the guides do not document: their effect is unknown.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compiler.lmi.images import Release
from compiler.quantization.vendors import VENDOR_SCHEMES

Kind = Literal["int", "float", "bool", "text"]
When = Literal["compile", "run", "both", "server"]


@dataclass(frozen=True)
class Option:
    """One property. `name`: in the file's spelling. `choices`: allowed values, where the set is closed.

    `when`: read when an engine is compiled (later only a record), when it runs, both, or by the server itself.
    Supported by LMI from `since` up to before `until`. `instead`: replacement in later releases, or why there is none.
    """

    name: str
    kind: Kind
    when: When
    since: Release = (0, 25)
    until: Release | None = None
    choices: tuple[str, ...] = ()
    instead: str = ""


V26, V27, V28, V29, V30, V33 = ((0, minor) for minor in (26, 27, 28, 29, 30, 33))

_QUANTIZE = tuple(dict.fromkeys(row.quantize for row in VENDOR_SCHEMES.values() if row.quantize))
_FROM_33 = "`option.quant_algo` and its companions: 0.33 ignores this one, and the engine would not be quantized"
_TOOLKIT = "nothing: 0.33 has no toolkit that reads it"

SERVER: tuple[Option, ...] = (
    Option("engine", "text", "server", choices=("MPI", "Python")),
    Option("job_queue_size", "int", "server"),
    Option("batch_size", "int", "server"),
    Option("max_dynamic_batch_size", "int", "server", V27),
    Option("max_batch_delay", "int", "server"),
    Option("max_idle_time", "int", "server"),
    Option("load_on_devices", "text", "server"),
    *(
        Option(f"{device}{name}", "int", "server")
        for device in ("", "gpu.", "cpu.", "nc.")
        for name in ("minWorkers", "maxWorkers")
    ),
    Option("option.mpi_mode", "bool", "server"),
    Option("option.async_mode", "bool", "server", V33),
    Option("option.entryPoint", "text", "server"),
    Option("option.parallel_loading", "bool", "server"),
    Option("option.model_loading_timeout", "int", "server"),
    Option("option.predict_timeout", "int", "server"),
    Option("option.env", "text", "server", V27),
)
"""Properties of the server. Source: serving/docs/lmi/deployment_guide/configurations.md."""

SHARED: tuple[Option, ...] = (
    Option("option.model_id", "text", "both"),
    Option("option.model_dir", "text", "both"),
    Option("option.rolling_batch", "text", "run", choices=("auto", "trtllm", "disable")),
    Option("option.tensor_parallel_degree", "int", "both"),
    Option("option.pipeline_parallel_degree", "int", "both", V29),
    Option("option.max_rolling_batch_size", "int", "both"),
    Option("option.dtype", "text", "both"),
    Option("option.trust_remote_code", "bool", "both"),
    Option("option.revision", "text", "both"),
    Option("option.output_formatter", "text", "run", choices=("json", "jsonlines", "sse")),
    Option("option.tgi_compat", "bool", "run", V28),
    Option("option.task", "text", "run"),
    Option("option.adapters", "text", "run"),
    Option("option.enable_streaming", "text", "run", choices=("true", "false", "huggingface", "True", "False")),
    Option("option.waiting_steps", "int", "run"),
    Option("option.batch_size", "int", "both"),
)
"""Properties of every handler. Source: engines/python/setup/djl_python/properties_manager/properties.py."""

OPTIONS: tuple[Option, ...] = (
    *SERVER,
    *SHARED,
    # Limits of the engine.
    Option("option.max_input_len", "int", "both"),
    Option("option.max_output_len", "int", "compile", until=V33, instead="`option.max_seq_len`"),
    Option("option.max_num_tokens", "int", "both", V27),
    # The Triton backend and the toolkit, 0.25 to 0.32.
    Option("option.use_custom_all_reduce", "bool", "compile", until=V30, instead="nothing: it is chosen by itself"),
    Option("option.tokens_per_block", "int", "compile"),
    Option(
        "option.batch_scheduler_policy",
        "text",
        "run",
        until=V33,
        choices=("max_utilization", "guaranteed_no_evict"),
        instead=_TOOLKIT,
    ),
    Option(
        "option.kv_cache_free_gpu_mem_fraction", "float", "run", until=V33, instead="`option.free_gpu_memory_fraction`"
    ),
    Option("option.max_num_sequences", "int", "run", until=V33, instead=_TOOLKIT),
    Option("option.enable_trt_overlap", "bool", "run", until=V33, instead=_TOOLKIT),
    Option("option.enable_kv_cache_reuse", "bool", "run", V26, V33, instead="`option.enable_block_reuse`"),
    Option("option.multi_block_mode", "bool", "compile", V26, V30, instead="nothing: it is chosen by itself"),
    Option("option.use_fused_mlp", "bool", "compile", V26),
    Option(
        "option.baichuan_model_version",
        "text",
        "compile",
        V26,
        V33,
        choices=("v1_7b", "v1_13b", "v2_7b", "v2_13b"),
        instead=_TOOLKIT,
    ),
    Option("option.chatglm_model_version", "text", "compile", V26, V33, instead=_TOOLKIT),
    Option(
        "option.gpt_model_version", "text", "compile", V26, V33, ("gpt2", "santacoder", "starcoder"), instead=_TOOLKIT
    ),
    Option("option.rotary_base", "float", "compile", V26, V33, instead=_TOOLKIT),
    Option("option.rotary_dim", "int", "compile", V26, V33, instead=_TOOLKIT),
    Option("option.rotary_scaling_type", "text", "compile", V26, V33, ("linear", "dynamic"), instead=_TOOLKIT),
    Option("option.rotary_scaling_factor", "float", "compile", V26, V33, instead=_TOOLKIT),
    Option("option.logits_dtype", "text", "compile", V28),
    Option("option.trtllm_checkpoint_path", "text", "compile", V28, V33, instead=_TOOLKIT),
    Option("option.load_by_shard", "bool", "compile", V28, V33, instead=_TOOLKIT),
    # Quantization, 0.25 to 0.32. The user guides name SmoothQuant since 0.26; the documentation at v0.25.0 has it
    # for Llama.
    Option("option.quantize", "text", "compile", until=V33, choices=_QUANTIZE, instead=_FROM_33),
    Option("option.smoothquant_alpha", "float", "compile", until=V33, instead="`option.smoothquant_val`"),
    Option("option.smoothquant_per_token", "bool", "compile", until=V33, instead=_FROM_33),
    Option("option.smoothquant_per_channel", "bool", "compile", until=V33, instead=_FROM_33),
    Option("option.multi_query_mode", "bool", "compile", until=V33, instead=_FROM_33),
    Option("option.awq_format", "text", "compile", V26, V27, instead="`option.q_format`"),
    Option("option.awq_calib_size", "int", "compile", V26, V27, instead="`option.calib_size`"),
    Option("option.q_format", "text", "compile", V27, V33, instead=_FROM_33),
    Option("option.calib_size", "int", "compile", V27, V33, instead="`option.calib_batches`"),
    Option("option.calib_batch_size", "int", "compile", V28),
    Option("option.use_fp8_context_fmha", "bool", "compile", V28),
    Option("option.awq_block_size", "int", "compile", V28, V33, instead="`option.group_size`"),
    # 0.33: TensorRT-LLM's LLM class. Quantization and calibration.
    Option("option.quant_algo", "text", "compile", V33),
    Option("option.kv_cache_quant_algo", "text", "compile", V33),
    Option("option.group_size", "int", "compile", V33),
    Option("option.smoothquant_val", "float", "compile", V33),
    Option("option.clamp_val", "text", "compile", V33),
    Option("option.use_meta_recipe", "bool", "compile", V33),
    Option("option.has_zero_point", "bool", "compile", V33),
    Option("option.pre_quant_scales", "bool", "compile", V33),
    Option("option.exclude_modules", "text", "compile", V33),
    Option("option.device", "text", "compile", V33, choices=("cuda", "cpu")),
    Option("option.calib_dataset", "text", "compile", V33),
    Option("option.calib_batches", "int", "compile", V33),
    Option("option.calib_max_seq_length", "int", "compile", V33),
    Option("option.random_seed", "int", "compile", V33),
    Option("option.tokenizer_max_seq_length", "int", "compile", V33),
    # Limits and plugins, for the parser of trtllm-build.
    Option("option.max_batch_size", "int", "compile", V33),
    Option("option.max_seq_len", "int", "both", V33),
    Option("option.max_beam_width", "int", "both", V33),
    Option("option.opt_num_tokens", "int", "compile", V33),
    Option("option.kv_cache_type", "text", "compile", V33, choices=("continuous", "paged", "disabled")),
    Option("option.gemm_plugin", "text", "compile", V33),
    Option("option.gpt_attention_plugin", "text", "compile", V33),
    Option("option.use_paged_context_fmha", "text", "compile", V33, choices=("enable", "disable")),
    # Arguments that its handler passes to the class at run time.
    Option("option.backend", "text", "run", V33, choices=("pytorch",)),
    Option("option.tokenizer", "text", "run", V33),
    Option("option.tokenizer_mode", "text", "run", V33, choices=("auto", "slow")),
    Option("option.tokenizer_revision", "text", "run", V33),
    Option("option.skip_tokenizer_init", "bool", "run", V33),
    Option("option.pipeline_parallel_size", "int", "run", V33),
    Option("option.context_parallel_size", "int", "run", V33),
    Option("option.moe_tensor_parallel_size", "int", "run", V33),
    Option("option.moe_expert_parallel_size", "int", "run", V33),
    Option("option.enable_attention_dp", "bool", "run", V33),
    Option("option.load_format", "text", "run", V33),
    Option("option.enable_chunked_prefill", "bool", "run", V33),
    Option("option.guided_decoding_backend", "text", "run", V33),
    Option("option.iter_stats_max_iterations", "int", "run", V33),
    Option("option.request_stats_max_iterations", "int", "run", V33),
    Option("option.embedding_parallel_mode", "text", "run", V33),
    Option("option.fast_build", "bool", "run", V33),
    Option("option.enable_build_cache", "bool", "run", V33),
    Option("option.normalize_log_probs", "bool", "run", V33),
    Option("option.gather_generation_logits", "bool", "run", V33),
    Option("option.enable_block_reuse", "bool", "run", V33),
    Option("option.max_tokens", "int", "run", V33),
    Option("option.max_attention_window", "text", "run", V33),
    Option("option.sink_token_length", "int", "run", V33),
    Option("option.free_gpu_memory_fraction", "float", "run", V33),
    Option("option.host_cache_size", "int", "run", V33),
    Option("option.onboard_blocks", "bool", "run", V33),
)

BY_NAME: dict[str, Option] = {option.name: option for option in OPTIONS}
"""Properties by name; one row is the property in all releases that support it."""
