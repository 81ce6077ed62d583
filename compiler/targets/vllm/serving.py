"""Arguments of a vLLM server: one table for the command line, serving.properties of LMI, and SageMaker's variables.

Everything that vLLM puts into the key of its compiled cache is explicit, so that no default of an image decides it, and
the server that bakes has the same arguments as the server that serves. The key by argument was found with vLLM 0.32.0
by two starts that differ in one argument (November 2026).

Sources: `vllm serve --help` of 0.32.0; djl-serving, engines/python/setup/djl_python/properties_manager/
vllm_rb_properties.py on 0.36.0-dlc for LMI's names; deep-learning-containers, vllm/sagemaker_entrypoint.sh for
`SM_VLLM_<ARGUMENT>`. The last two were read, and not run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MODEL_PATH = "/opt/ml/model"
"""Folder that SageMaker mounts a model at. The text of the path is in the key: a symbolic link or a trailing slash is
another path.
"""


@dataclass(frozen=True)
class Serving:
    """Arguments of a server. Lengths in tokens; `max_num_batched_tokens`: of all rows in a step; `max_num_seqs`: rows.

    `load_format`: `sharded_state` for rank files, `auto` for a plain checkpoint. `block_size`: tokens of a block of
    the KV cache.
    """

    tp: int
    dtype: str
    max_model_len: int
    max_num_seqs: int
    max_num_batched_tokens: int
    block_size: int
    load_format: str = "sharded_state"
    quantization: str = ""
    kv_cache_dtype: str = "auto"
    max_logprobs: int = 20
    generation_config: str = "vllm"
    seed: int = 0
    model: str = MODEL_PATH


@dataclass(frozen=True)
class Argument:
    """One argument: field of Serving, flag of the command line, property of LMI ("" = passed by `option.<flag>`), and
    whether its value is in the key.
    """

    field: str
    flag: str
    prop: str
    in_key: bool


ARGUMENTS = (
    Argument("tp", "--tensor-parallel-size", "option.tensor_parallel_degree", in_key=True),
    Argument("dtype", "--dtype", "option.dtype", in_key=True),
    Argument("max_model_len", "--max-model-len", "option.max_model_len", in_key=True),
    Argument("max_num_seqs", "--max-num-seqs", "option.max_rolling_batch_size", in_key=True),
    Argument(
        "max_num_batched_tokens", "--max-num-batched-tokens", "option.max_rolling_batch_prefill_tokens", in_key=True
    ),
    Argument("block_size", "--block-size", "option.block_size", in_key=True),
    Argument("kv_cache_dtype", "--kv-cache-dtype", "option.kv_cache_dtype", in_key=True),
    Argument("max_logprobs", "--max-logprobs", "option.max_logprobs", in_key=True),
    Argument("generation_config", "--generation-config", "option.generation_config", in_key=True),
    Argument("quantization", "--quantization", "option.quantize", in_key=True),
    Argument("load_format", "--load-format", "option.load_format", in_key=False),
    Argument("seed", "--seed", "option.seed", in_key=False),
)


def _values(serving: Serving) -> Iterator[tuple[Argument, str]]:
    for argument in ARGUMENTS:
        value = str(getattr(serving, argument.field))
        if value:
            yield argument, value


def server_argv(serving: Serving, python: str, host: str, port: int) -> tuple[str, ...]:
    """Command line of vLLM's OpenAI server."""
    pairs = [word for argument, value in _values(serving) for word in (argument.flag, value)]
    head = (python, "-m", "vllm.entrypoints.openai.api_server", "--model", serving.model)
    return (*head, *pairs, "--host", host, "--port", str(port))


def lmi_properties(serving: Serving, environment: Mapping[str, str]) -> dict[str, str]:
    """serving.properties of an LMI image with vLLM. `option.model_id` is left out: the model is in the file's folder.

    `environment`: variables that the server must have; LMI splits `option.env` at `,` and `=`.
    """
    found = {"engine": "Python", **{argument.prop: value for argument, value in _values(serving)}}
    if environment:
        found["option.env"] = ",".join(f"{name}={value}" for name, value in sorted(environment.items()))
    return found


def sagemaker_environment(serving: Serving, environment: Mapping[str, str]) -> dict[str, str]:
    """Environment of the AWS vLLM container: `SM_VLLM_MAX_MODEL_LEN` for `--max-model-len`, and `environment`."""
    named = {
        f"SM_VLLM_{argument.flag.removeprefix('--').replace('-', '_').upper()}": value
        for argument, value in _values(serving)
    }
    return {"SM_VLLM_MODEL": serving.model, **named, **environment}
