"""Layout of an engine's artifact for a container, and the configuration files beside the engine.

    triton (LMI 0.25 to 0.32)                       engine (LMI 0.33)
    serving.properties                              serving.properties
    tensorrt_llm/config.pbtxt                       config.json           the engine's
    tensorrt_llm/tokenizer_config.json ...          rank0.engine ...
    tensorrt_llm/config.json      the source's      tokenizer_config.json, tokenizer.json ...
    tensorrt_llm/1/config.json    the engine's      generation_config.json
    tensorrt_llm/1/rank0.engine ...

The front end ignores the other files of an artifact (manifest.json ...). Under 0.25 and 0.26 the partition command of
the image makes the folder `tensorrt_llm`, config.pbtxt included (`partition.py`).

No property is left to a default: without serving.properties at the root the server loads a sub-folder as the model and
compiles it; without `engine` it cannot detect the engine; without `tensor_parallel_degree` and
`max_rolling_batch_size` it uses the number of GPUs and 32. Sources, in djl-serving:
LmiUtils.java and ModelInfo.java (wlm), PyModel.java (engines/python) at v0.25.0 to v0.29.0 and on 0.30.0-dlc to
0.33.0-dlc; engines/python/setup/djl_python/properties_manager/trt_properties.py on 0.33.0-dlc for
`pipeline_parallel_size`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from compiler.errors import TokenizerError, UsageError
from compiler.lmi.files import rank_problems, tokenizer_problems
from compiler.lmi.images import TRTLLM, Release, TrtllmImage, trtllm_image
from compiler.lmi.properties import SERVING_PROPERTIES, Properties, Value
from compiler.lmi.triton import MODEL, config_pbtxt

LMI_DTYPES = {"float16": "fp16", "bfloat16": "bf16", "float32": "fp32"}
"""LMI's name of a torch dtype in 0.25 to 0.32; 0.33 passes torch's name to TensorRT-LLM."""
_OWN_COMMAND_UNTIL: Release = (0, 27)
"""First release whose TensorRT-LLM has a checkpoint format; before, the image's partition command makes the folder."""
_MPI_ENGINE_UNTIL: Release = (0, 30)
_PIPELINE_SINCE: Release = (0, 29)
_NUM_TOKENS_SINCE: Release = (0, 27)
_STREAM_SINCE: Release = (0, 27)
"""First release that streams an answer on request; before, only an output formatter of lines does."""


@dataclass(frozen=True)
class EngineFacts:
    """An engine, and the LMI release that it is packaged for.

    `dtype`: torch's name of the activations' dtype. Limits of the engine's build: `max_input_len` and `max_seq_len`
    (prompt and answer) in tokens per row, `max_num_tokens` in tokens of all rows in a step, `max_batch_size` in rows.
    `engine_files`: names in the engine's folder: config.json, rank{i}.engine, other files of the builder.
    `tokenizer_files`: names of the files from the source: tokenizer*, generation_config.json, special_tokens_map.json,
    config.json ...
    `quant`: properties that record the quantization (`quantize.quant_properties`), by full name.
    `paged_context_fmha`: built with `--use_paged_context_fmha enable`, a condition of KV cache reuse.
    `options`: further properties by full name (`option.dtype`), which override the others.

    Raises:
        RefusedError: a release whose image loads no engines.
        UsageError: limits that contradict each other, or engine files that are not those of tp x pp ranks.
    """

    model: str
    release: Release
    tp: int
    dtype: str
    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_num_tokens: int
    engine_files: tuple[str, ...]
    tokenizer_files: tuple[str, ...]
    pp: int = 1
    quant: Mapping[str, Value] = field(default_factory=dict)
    paged_context_fmha: bool = False
    options: Mapping[str, Value] = field(default_factory=dict)

    def __post_init__(self) -> None:
        image = trtllm_image(f"{self.release[0]}.{self.release[1]}.0")
        if self.dtype not in LMI_DTYPES:
            raise UsageError(
                f"the dtype of an engine is one of {', '.join(LMI_DTYPES)}; found `{self.dtype}`",
                hint="build with one of these `--dtype`s",
            )
        if self.max_seq_len <= self.max_input_len:
            raise UsageError(
                f"max_seq_len (prompt and answer) must be above max_input_len {self.max_input_len}; "
                f"found {self.max_seq_len}",
                hint="raise `--max-seq-len`, or lower `--max-input-len`",
            )
        if self.pp > 1 and self.release < _PIPELINE_SINCE:
            raise UsageError(
                f"LMI {image.lmi} runs one pipeline stage; found pp {self.pp}",
                hint="LMI 0.29 and later run several.",
            )
        problems = rank_problems(self.engine_files, self.tp * self.pp)
        if problems:
            texts = "; ".join(problem.text for problem in problems)
            raise UsageError(
                f"the engine's folder for tp {self.tp} and pp {self.pp}: {texts}", hint="build the engines again"
            )

    @property
    def image(self) -> TrtllmImage:
        return TRTLLM[self.release]


def engine_folder(facts: EngineFacts) -> str:
    """Folder of the engine files, relative to the artifact's root: `tensorrt_llm/1`, or "" for the root itself."""
    return {"triton": f"{MODEL}/1", "engine": ""}[facts.image.family]


def tokenizer_paths(facts: EngineFacts) -> dict[str, str]:
    """Path in the artifact of each file of `tokenizer_files`.

    The flat folder leaves out the source's config.json: the engine's has the same path.

    Raises:
        TokenizerError: the front end or the tokenizer's loader would miss a file.
    """
    problems = tokenizer_problems(facts.tokenizer_files)
    if problems:
        raise TokenizerError(
            f"LMI {facts.image.lmi} needs the tokenizer of `{facts.model}`: {'; '.join(p.text for p in problems)}",
            hint="Pass `--tokenizer DIR` with the files that `save_pretrained` of the tokenizer writes.",
        )
    folder = {"triton": f"{MODEL}/", "engine": ""}[facts.image.family]
    taken = {"triton": set[str](), "engine": {"config.json"}}[facts.image.family]
    return {name: folder + name for name in facts.tokenizer_files if name not in taken}


def container_files(facts: EngineFacts) -> dict[str, bytes]:
    """Configuration files beside engine and tokenizer: path in the artifact -> bytes.

    Raises:
        TokenizerError: as `tokenizer_paths`.
        UsageError, RefusedError: an option that the release does not support, or of another type.
    """
    tokenizer_paths(facts)
    files = {SERVING_PROPERTIES: serving_properties(facts).to_bytes()}
    if facts.image.family == "triton" and facts.release >= _OWN_COMMAND_UNTIL:
        major, minor, patch = (int(part) for part in facts.image.trtllm.split("."))
        files[f"{MODEL}/config.pbtxt"] = config_pbtxt(
            (major, minor, patch),
            max_batch_size=facts.max_batch_size,
            paged_context_fmha=facts.paged_context_fmha,
        )
    return files


def serving_properties(facts: EngineFacts) -> Properties:
    """serving.properties of the artifact. `option.model_id` is left out: the model is in the file's own folder.

    Raises:
        UsageError, RefusedError: an option that the release does not support, or of another type.
    """
    made = {"triton": _triton, "engine": _engine}[facts.image.family](facts)
    if facts.release < _STREAM_SINCE:
        made["option.output_formatter"] = "jsonlines"
    return Properties(facts.release, {**made, **facts.quant, **facts.options})


def _triton(facts: EngineFacts) -> dict[str, Value]:
    with_mpi: dict[str, Value] = (
        {"engine": "MPI"} if facts.release < _MPI_ENGINE_UNTIL else {"engine": "Python", "option.mpi_mode": True}
    )
    pipeline: dict[str, Value] = {"option.pipeline_parallel_degree": facts.pp}
    tokens: dict[str, Value] = {"option.max_num_tokens": facts.max_num_tokens}
    reuse: dict[str, Value] = {"option.enable_kv_cache_reuse": True}
    return {
        **with_mpi,
        "option.entryPoint": "djl_python.tensorrt_llm",
        "option.rolling_batch": "trtllm",
        "option.tensor_parallel_degree": facts.tp,
        **(pipeline if facts.release >= _PIPELINE_SINCE else {}),
        "option.max_rolling_batch_size": facts.max_batch_size,
        "option.dtype": LMI_DTYPES[facts.dtype],
        "option.max_input_len": facts.max_input_len,
        "option.max_output_len": facts.max_seq_len - facts.max_input_len,
        **(tokens if facts.release >= _NUM_TOKENS_SINCE else {}),
        **(reuse if facts.paged_context_fmha else {}),
    }


def _engine(facts: EngineFacts) -> dict[str, Value]:
    return {
        "engine": "Python",
        "option.entryPoint": "djl_python.lmi_trtllm.trtllm_async_service",
        # An explicit entry point does not switch this on by itself.
        "option.async_mode": True,
        "option.rolling_batch": "disable",
        "option.tensor_parallel_degree": facts.tp,
        # The front end counts GPUs by the first name; the handler passes the second to TensorRT-LLM.
        "option.pipeline_parallel_degree": facts.pp,
        "option.pipeline_parallel_size": facts.pp,
        "option.max_rolling_batch_size": facts.max_batch_size,
        "option.dtype": facts.dtype,
        "option.max_input_len": facts.max_input_len,
        "option.max_seq_len": facts.max_seq_len,
        "option.max_num_tokens": facts.max_num_tokens,
        "option.enable_block_reuse": facts.paged_context_fmha,
    }
