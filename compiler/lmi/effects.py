"""Effect of each property of a serving.properties on a build of this project (names: options.py)."""

from __future__ import annotations

from collections.abc import Mapping

USED: Mapping[str, str] = {
    "option.tensor_parallel_degree": "tp",
    "option.pipeline_parallel_degree": "pp",
    "option.pipeline_parallel_size": "pp",
    "option.moe_expert_parallel_size": "moe_ep",
    "option.max_rolling_batch_size": "max_batch",
    "option.max_batch_size": "max_batch",
    "option.max_seq_len": "max_positions",
    "option.max_input_len": "max_input_len",
    "option.max_num_tokens": "max_num_tokens",
    "option.dtype": "dtype",
    "option.revision": "revision",
    "option.model_id": "model",
}
"""Option of the command line that a property stands for; the first of two properties for one option counts.
`max_output_len` (up to LMI 0.32, which has no max_seq_len) and `rotary_scaling_*` are read together with others
(from_properties.py).
"""

QUANTIZATION = frozenset(
    f"option.{name}"
    for name in (
        "quantize", "smoothquant_alpha", "smoothquant_per_token", "smoothquant_per_channel", "multi_query_mode",
        "awq_format", "awq_calib_size", "q_format", "calib_size", "awq_block_size", "quant_algo",
        "kv_cache_quant_algo", "group_size", "smoothquant_val", "calib_batches", "calib_max_seq_length",
    )
)  # fmt: skip
"""Properties of the quantization (quantize.py)."""

REFUSED_UNLESS: Mapping[str, tuple[str | int | bool, ...]] = {
    "option.clamp_val": ("",),
    "option.use_meta_recipe": (False,),
    "option.has_zero_point": (False,),
    "option.pre_quant_scales": (False,),
    "option.exclude_modules": ("",),
    "option.max_beam_width": (1,),
    "option.context_parallel_size": (1,),
    "option.backend": (),
    "option.kv_cache_type": ("paged",),
    "option.load_format": ("auto",),
}
"""Properties that would need another artifact, with the values that this project's artifacts have."""

_FROM_CONFIG = "config.json of the model has it"
_OWN_CODE = "code of a checkpoint is never run"

EVERYWHERE: Mapping[str, str] = {
    "option.model_id": "`--model` names the model",
    "option.model_dir": "`--model` names the model",
    "option.trust_remote_code": _OWN_CODE,
    "option.dtype": "the checkpoint's dtype is the default",
}
"""Reasons under every back end."""

NO_EFFECT: Mapping[str, str] = {
    **EVERYWHERE,
    "option.rotary_base": _FROM_CONFIG,
    "option.rotary_dim": _FROM_CONFIG,
    "option.gpt_model_version": _FROM_CONFIG,
    "option.baichuan_model_version": _FROM_CONFIG,
    "option.chatglm_model_version": _FROM_CONFIG,
    "option.calib_dataset": "`--calibration` names the text",
    "option.max_output_len": "it counts together with `option.max_input_len`",
    "option.rotary_scaling_type": "it counts together with `option.rotary_scaling_factor`",
    "option.rotary_scaling_factor": "it counts together with `option.rotary_scaling_type`",
}
"""Reason for properties that have no effect on a build, where it is not that the server reads them or that the target
decides by itself.
"""
