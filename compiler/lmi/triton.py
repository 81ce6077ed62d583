"""config.pbtxt: configuration of an engine for the Triton backend of TensorRT-LLM (protobuf text format).

Names, types and shapes are those of all_models/inflight_batcher_llm/tensorrt_llm/config.pbtxt in
triton-inference-server/tensorrtllm_backend at v0.8.0, v0.9.0, v0.11.0 and v0.12.0, the versions in LMI 0.27 to 0.32.
LMI also requires (serving/docs/lmi/tutorials/trtllm_manual_convert_tutorial.md at v0.26.0 and on 0.32.0-dlc) a
decoupled transaction policy, no parameter left as a placeholder, no dynamic_batching block, and, for a mounted
artifact, `gpt_model_path` below /opt/ml/model. No container has loaded a file written here so far.
"""

from __future__ import annotations

from dataclasses import dataclass

Version = tuple[int, int, int]

V8, V9, V11, V12 = ((0, minor, 0) for minor in (8, 9, 11, 12))
END: Version = (1000, 0, 0)

MODEL = "tensorrt_llm"
"""Name of the model and of its folder, which Triton requires to be equal. LMI's documentation uses this one."""
MOUNTED = "/opt/ml/model"
"""Mount point of an artifact under SageMaker: the container's model directory."""


@dataclass(frozen=True)
class Port:
    """Input or output tensor. `dims`: -1 is free. `flags`: `scalar` (one value per request: reshaped to []),
    `optional`, `ragged` (rows of different lengths in one batch). In TensorRT-LLM from `since` up to before `until`.
    """

    name: str
    dtype: str
    dims: tuple[int, ...]
    flags: str = ""
    since: Version = V8
    until: Version = END


_ONE = (1,)
_ROW = (-1,)

INPUTS: tuple[Port, ...] = (
    Port("input_ids", "INT32", _ROW, "ragged"),
    Port("input_lengths", "INT32", _ONE, "scalar"),
    Port("request_output_len", "INT32", _ONE, "", until=V12),
    Port("request_output_len", "INT32", _ONE, "scalar", V12),
    Port("draft_input_ids", "INT32", _ROW, "optional ragged"),
    Port("decoder_input_ids", "INT32", _ROW, "optional ragged", V11),
    Port("decoder_input_lengths", "INT32", _ONE, "optional scalar", V11),
    Port("draft_logits", "FP32", (-1, -1), "optional ragged", V9),
    Port("draft_acceptance_threshold", "FP32", _ONE, "optional scalar", V11),
    Port("end_id", "INT32", _ONE, "optional scalar"),
    Port("pad_id", "INT32", _ONE, "optional scalar"),
    Port("stop_words_list", "INT32", (2, -1), "optional ragged"),
    Port("bad_words_list", "INT32", (2, -1), "optional ragged"),
    Port("embedding_bias", "FP32", _ROW, "optional ragged"),
    Port("beam_width", "INT32", _ONE, "optional scalar"),
    Port("temperature", "FP32", _ONE, "optional scalar"),
    Port("runtime_top_k", "INT32", _ONE, "optional scalar"),
    Port("runtime_top_p", "FP32", _ONE, "optional scalar"),
    Port("runtime_top_p_min", "FP32", _ONE, "optional scalar", V11),
    Port("runtime_top_p_decay", "FP32", _ONE, "optional scalar", V11),
    Port("runtime_top_p_reset_ids", "INT32", _ONE, "optional scalar", V11),
    Port("len_penalty", "FP32", _ONE, "optional scalar"),
    Port("early_stopping", "BOOL", _ONE, "optional scalar", V11),
    Port("repetition_penalty", "FP32", _ONE, "optional scalar"),
    Port("min_length", "INT32", _ONE, "optional scalar"),
    Port("beam_search_diversity_rate", "FP32", _ONE, "optional scalar", V11),
    Port("presence_penalty", "FP32", _ONE, "optional scalar"),
    Port("frequency_penalty", "FP32", _ONE, "optional scalar"),
    Port("random_seed", "UINT64", _ONE, "optional scalar"),
    Port("return_log_probs", "BOOL", _ONE, "optional scalar"),
    Port("return_context_logits", "BOOL", _ONE, "optional scalar"),
    Port("return_generation_logits", "BOOL", _ONE, "optional scalar"),
    Port("stop", "BOOL", _ONE, "optional", until=V12),
    Port("stop", "BOOL", _ONE, "optional scalar", V12),
    Port("streaming", "BOOL", _ONE, "optional", until=V12),
    Port("streaming", "BOOL", _ONE, "optional scalar", V12),
    Port("prompt_embedding_table", "FP16", (-1, -1), "optional ragged"),
    Port("prompt_vocab_size", "INT32", _ONE, "optional scalar"),
    Port("lora_task_id", "UINT64", _ONE, "optional scalar", V9),
    Port("lora_weights", "FP16", (-1, -1), "optional ragged"),
    Port("lora_config", "INT32", (-1, 3), "optional ragged"),
)

OUTPUTS: tuple[Port, ...] = (
    Port("output_ids", "INT32", (-1, -1)),
    Port("sequence_length", "INT32", _ROW),
    Port("cum_log_probs", "FP32", _ROW),
    Port("output_log_probs", "FP32", (-1, -1)),
    Port("context_logits", "FP32", (-1, -1)),
    Port("generation_logits", "FP32", (-1, -1, -1)),
    Port("batch_index", "INT32", _ONE, "", V12),
)

_BACKENDS = "/opt/tritonserver/backends/tensorrtllm"


@dataclass(frozen=True)
class Parameter:
    """Parameter of the backend, with the value that LMI's documentation recommends for its containers."""

    key: str
    value: str
    since: Version = V8
    until: Version = END


PARAMETERS: tuple[Parameter, ...] = (
    Parameter("max_beam_width", "1"),
    Parameter("FORCE_CPU_ONLY_INPUT_TENSORS", "no"),
    Parameter("gpt_model_type", "inflight_fused_batching"),
    Parameter("batch_scheduler_policy", "max_utilization"),
    Parameter("kv_cache_free_gpu_mem_fraction", "0.95"),
    Parameter("enable_trt_overlap", "False", until=V11),
    Parameter("exclude_input_in_output", "True"),
    Parameter("enable_kv_cache_reuse", "False"),
    Parameter("worker_path", f"{_BACKENDS}/triton_tensorrtllm_worker", V9, V11),
    Parameter("executor_worker_path", f"{_BACKENDS}/trtllmExecutorWorker", V11),
)
"""Parameters except `gpt_model_path`. `enable_kv_cache_reuse` becomes True where the engine supports it."""


def config_pbtxt(version: Version, *, max_batch_size: int, paged_context_fmha: bool) -> bytes:
    """config.pbtxt of an engine in `tensorrt_llm/1` of a mounted artifact, for TensorRT-LLM `version` (0.8 to 0.12)."""
    values = {p.key: p.value for p in PARAMETERS if p.since <= version < p.until}
    values["gpt_model_path"] = f"{MOUNTED}/{MODEL}/1"
    values["enable_kv_cache_reuse"] = str(paged_context_fmha)
    lines = [
        f'name: "{MODEL}"',
        'backend: "tensorrtllm"',
        f"max_batch_size: {max_batch_size}",
        "model_transaction_policy { decoupled: True }",
        *_ports("input", INPUTS, version),
        *_ports("output", OUTPUTS, version),
        "instance_group [ { count: 1 kind: KIND_CPU } ]",
        *(f'parameters {{ key: "{key}" value {{ string_value: "{value}" }} }}' for key, value in values.items()),
    ]
    return ("\n".join(lines) + "\n").encode()


def _ports(direction: str, ports: tuple[Port, ...], version: Version) -> list[str]:
    spelled = {"scalar": "reshape { shape: [ ] }", "optional": "optional: true", "ragged": "allow_ragged_batch: true"}
    lines = [
        " ".join(
            [
                f'name: "{port.name}" data_type: TYPE_{port.dtype} dims: [ {", ".join(map(str, port.dims))} ]',
                *(spelled[flag] for flag in port.flags.split()),
            ]
        )
        for port in ports
        if port.since <= version < port.until
    ]
    return [f"{direction} [", ",\n".join(f"  {{ {line} }}" for line in lines), "]"]
