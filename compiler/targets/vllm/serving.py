"""Arguments of a vLLM server: one table for the command line, serving.properties of LMI, and SageMaker's variables.

Everything that vLLM puts into the key of its compiled cache is explicit, so that no default of an image decides it, and
the server that bakes has the same arguments as the server that serves. The key by argument was found with vLLM 0.32.0
by two starts that differ in one argument (November 2026).

Sources: `vllm serve --help` of 0.32.0; djl-serving, engines/python/setup/djl_python/properties_manager/
vllm_rb_properties.py on 0.36.0-dlc for LMI's names; deep-learning-containers, vllm/sagemaker_entrypoint.sh for
`SM_VLLM_<ARGUMENT>`. The last two were read, and not run.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from compiler.errors import UsageError
from compiler.lmi.backends import TABLES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MODEL_PATH = "/opt/ml/model"
"""Folder that SageMaker mounts a model at. The text of the path is in the key: a symbolic link or a trailing slash is
another path.
"""


@dataclass(frozen=True)
class Serving:
    """Arguments of a server. Lengths in tokens; `max_num_batched_tokens`: of all rows in a step; `max_num_seqs`: rows.

    `load_format`: `sharded_state` for rank files, `auto` for a plain checkpoint. `block_size`: tokens of a block of
    the KV cache, 0: the device's default (for_device in bake.py). "" leaves an argument to vLLM.
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
    gpu_memory_utilization: str = ""
    enable_prefix_caching: str = ""
    async_scheduling: str = ""
    trust_remote_code: str = ""
    model: str = MODEL_PATH


Kind = Literal["count", "share", "switch", "name"]
"""Form of a value: digits; a number up to 1; `true` or `false`, a flag or its opposite `--no-...`; another text."""


@dataclass(frozen=True)
class Argument:
    """One argument: field of Serving, flag of the command line, property of LMI, and whether its value is in the key.

    `decided`: option of the build that decides the value; "": `--option` sets it.
    """

    field: str
    flag: str
    prop: str
    kind: Kind
    in_key: bool
    decided: str = ""

    @property
    def variable(self) -> str:
        """Variable of the AWS vLLM container."""
        return f"SM_VLLM_{self.flag.removeprefix('--').replace('-', '_').upper()}"


ARGUMENTS = (
    Argument("tp", "--tensor-parallel-size", "option.tensor_parallel_degree", "count", in_key=True, decided="--tp"),
    Argument("dtype", "--dtype", "option.dtype", "name", in_key=True, decided="--dtype"),
    Argument("max_model_len", "--max-model-len", "option.max_model_len", "count", in_key=True,
             decided="--max-positions"),
    Argument("max_num_seqs", "--max-num-seqs", "option.max_rolling_batch_size", "count", in_key=True,
             decided="--max-batch"),
    Argument("max_num_batched_tokens", "--max-num-batched-tokens", "option.max_rolling_batch_prefill_tokens", "count",
             in_key=True),
    Argument("block_size", "--block-size", "option.block_size", "count", in_key=True),
    Argument("kv_cache_dtype", "--kv-cache-dtype", "option.kv_cache_dtype", "name", in_key=True),
    Argument("max_logprobs", "--max-logprobs", "option.max_logprobs", "count", in_key=True),
    Argument("generation_config", "--generation-config", "option.generation_config", "name", in_key=True),
    Argument("quantization", "--quantization", "option.quantize", "name", in_key=True, decided="--quant"),
    Argument("load_format", "--load-format", "option.load_format", "name", in_key=False, decided="--weights"),
    Argument("seed", "--seed", "option.seed", "count", in_key=False),
    Argument("gpu_memory_utilization", "--gpu-memory-utilization", "option.gpu_memory_utilization", "share",
             in_key=False),
    Argument("enable_prefix_caching", "--enable-prefix-caching", "option.enable_prefix_caching", "switch",
             in_key=False),
    Argument("async_scheduling", "--async-scheduling", "option.async_scheduling", "switch", in_key=True),
    Argument("trust_remote_code", "--trust-remote-code", "option.trust_remote_code", "switch", in_key=True),
)  # fmt: skip
_FORMS: Mapping[Kind, tuple[str, str]] = {
    "count": (r"\d+", "a number"),
    "share": (r"0?\.\d+|1(\.0*)?", "a number above 0, at most 1"),
    "switch": (r"true|false", "`true` or `false`"),
    "name": (r"[\w.:/-]+", "a word"),
}


def with_options(serving: Serving, lines: Sequence[str]) -> Serving:
    """`serving` with the arguments of `--option NAME=VALUE` lines. `NAME`: the argument's in vLLM, or LMI's property.

    Raises UsageError for an argument that is not in the table, follows from another option, or has another form.
    """
    names = {name: each for each in ARGUMENTS for name in (each.field, each.flag, each.prop)}
    for line in lines:
        name, _, value = line.partition("=")
        found = names.get(name.strip()) or names.get(f"option.{name.strip()}") or names.get(_argument_name(name))
        if found is None:
            settable = ", ".join(each.field for each in ARGUMENTS if not each.decided)
            raise UsageError(
                f"`--option` takes NAME=VALUE with an argument of vLLM's server whose effect on its cache is known; "
                f"found `{line}`",
                hint=f"arguments: {settable}",
            )
        if found.decided:
            raise UsageError(f"`--option {line}` follows from the artifact", hint=f"`{found.decided}` decides it")
        form, text = _FORMS[found.kind]
        if not re.fullmatch(form, value.strip()):
            raise UsageError(f"`--option {found.field}` takes {text}; found `{value}`", hint="correct the value")
        changed: dict[str, Any] = {found.field: int(value) if found.kind == "count" else value.strip()}
        serving = replace(serving, **changed)
    return serving


def _argument_name(name: str) -> str:
    return name.strip().removeprefix("--").replace("-", "_")


def _values(serving: Serving) -> Iterator[tuple[Argument, str]]:
    for argument in ARGUMENTS:
        value = str(getattr(serving, argument.field))
        if value:
            yield argument, value


def server_argv(serving: Serving, python: str, host: str, port: int) -> tuple[str, ...]:
    """Command line of vLLM's OpenAI server."""
    pairs = [word for argument, value in _values(serving) for word in _words(argument, value)]
    head = (python, "-m", "vllm.entrypoints.openai.api_server", "--model", serving.model)
    return (*head, *pairs, "--host", host, "--port", str(port))


def _words(argument: Argument, value: str) -> tuple[str, ...]:
    if argument.kind != "switch":
        return argument.flag, value
    return (argument.flag if value == "true" else f"--no-{argument.flag.removeprefix('--')}",)


def _variable(argument: Argument, value: str) -> tuple[str, str]:
    """Variable of an argument. A switch has an empty one: both forms of the entry point add the flag alone."""
    if argument.kind != "switch":
        return argument.variable, value
    return (argument.variable if value == "true" else argument.variable.replace("SM_VLLM_", "SM_VLLM_NO_")), ""


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
    named = dict(_variable(argument, value) for argument, value in _values(serving))
    return {"SM_VLLM_MODEL": serving.model, **named, **environment}


def argument_problems(environment: Mapping[str, str], cached: Mapping[str, str | int]) -> Iterator[str]:
    """Variables of a container that name no argument of vLLM known here, or contradict those of the cache `cached`."""
    by_variable = {each.variable: each for each in ARGUMENTS}
    options = {f"SM_VLLM_{option.name.removeprefix('option.').upper()}" for option in TABLES["vllm"].options}
    for name, value in sorted(environment.items()):
        if not name.startswith("SM_VLLM_"):
            continue
        plain = name.replace("SM_VLLM_NO_", "SM_VLLM_")
        argument = by_variable.get(plain)
        if plain not in {"SM_VLLM_MODEL", *by_variable, *options}:
            near = difflib.get_close_matches(plain, [*by_variable, *options], n=1)
            yield f"`{name}` is no argument of vLLM's server that is known here{f': {near[0]}?' if near else ''}"
        elif argument and argument.in_key and argument.field in cached:
            made, wanted = str(cached[argument.field]), _value(argument, name, value)
            if made != wanted:
                yield f"the cache was made with {argument.flag} {made or '(default)'}; found `{name}={value}`"


def _value(argument: Argument, name: str, value: str) -> str:
    """Value of an argument in Serving, from a variable of a container."""
    if argument.kind != "switch" or value == "false":
        return value if argument.kind != "switch" else ""
    return "false" if name.startswith("SM_VLLM_NO_") else "true"
