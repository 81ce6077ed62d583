"""djl-serving's own configurations are understood: each is a request, or one error that names what is missing."""

from __future__ import annotations

import os
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

import recipes
from compiler import targets
from compiler.errors import LmiCompileError, ParallelError
from compiler.lmi.from_properties import LmiRequest, request_of_properties
from compiler.pipeline.plan import make_plan
from compiler.pipeline.request import Ask
from compiler.quantization.request import Text
from tests import published
from tests.lmi.corpus import CorpusFile, sample, whole

CLONE = os.environ.get("LMI_COMPILE_DJL_SERVING", "")

MISSING = {
    "adapters": r"option.enable_lora=True` changes|`option.adapters",
    "images in prompts": r"option.limit_mm_per_prompt=.* changes",
    "diffusion": r"serves diffusion models|option.use_stable_diffusion",
    "encoders": r"serves (encoders|ONNX)",
    "a published image": r"LMI 0.25.0 to 0.33.0 serve engines; found 0.3[56]",
    "weights": r"option.load_format` cannot be honored with the value `(dummy|sagemaker_fast_model_loader)`",
    "a plain checkpoint": r"option.load_split_model`",
    "the rounding": r"(bitsandbytes|dynamic_int8)` rounds as|option.load_in_[48]bit`",
    "the property": r"has no property `(load_on_device|option.engine|option.max_draft_len|add_output_formatter"
    r"|option.max_new_tokens)`",
}
"""What a file lacks, by the error that says so. `the property`: LMI ignores the name, too."""

CONFIGS = {
    "gpt-j-6b": "gptj-6b", "gpt-neox-20b": "gpt-neox-20b", "mixtral-8x7b": "mixtral-8x7b", "llama-2-70b-hf":
    "llama2-70b", "llama-2-13b-hf": "llama2-13b", "Llama-2-7b-chat-hf": "llama2-7b", "llama-3-8b-hf": "llama3-8b",
    "mistral-7b": "mistral-7b", "gemma-7b": "gemma-7b", "phi-2": "phi-2", "falcon-40b": "falcon-40b-instruct",
    "falcon-7b": "falcon-7b", "bloom-560m": "bloom-560m", "Qwen3-8B": "qwen3-8b", "TinyLlama-1.1B": "tinyllama",
    "tinyllama-1.1b-chat": "tinyllama", "starcoder2": "starcoder2-7b", "internlm-7b": "internlm-7b",
    "baichuan2-13b": "baichuan2-13b", "santacoder": "santacoder", "gpt2": "gpt2", "chatglm3-6b": "chatglm3-6b",
}  # fmt: skip
"""Published config of the models of some files, by a part of `option.model_id`."""


FAMILIES = ("vllm", "lmi_dist", "transformers_neuronx", "deepspeed", "trtllm")
COUNTS: dict[str, dict[str, list[int]]] = {
    "v0.25.0": {
        "deepspeed": [19, 1],
        "others": [10, 15],
        "transformers_neuronx": [8, 3],
        "lmi_dist": [11, 1],
        "vllm": [3, 0],
        "trtllm": [3, 0],
    },
    "v0.26.0": {
        "deepspeed": [19, 1],
        "others": [22, 6],
        "transformers_neuronx": [12, 5],
        "lmi_dist": [15, 1],
        "vllm": [7, 0],
        "trtllm": [12, 1],
    },
    "v0.27.0": {
        "deepspeed": [19, 1],
        "others": [22, 6],
        "transformers_neuronx": [12, 5],
        "lmi_dist": [19, 2],
        "vllm": [10, 2],
        "trtllm": [14, 1],
    },
    "v0.28.0": {
        "others": [12, 2],
        "transformers_neuronx": [16, 4],
        "lmi_dist": [19, 5],
        "vllm": [10, 5],
        "trtllm": [14, 1],
    },
    "v0.29.0": {
        "others": [21, 4],
        "transformers_neuronx": [20, 4],
        "lmi_dist": [28, 6],
        "vllm": [15, 6],
        "trtllm": [21, 1],
    },
    "v0.35.0": {"others": [8, 17], "vllm": [119, 55], "trtllm": [0, 23]},
    "v0.36.0": {"others": [8, 17], "vllm": [163, 147], "trtllm": [0, 23]},
}
"""Files that are a request, and files that lack something, by tag and list."""
PLANNED = (4, 379, 328)
"""Requests whose tp does not divide the model, whose model's config is not at hand, and that are planned."""


def _read(one: CorpusFile, folder: Path) -> LmiRequest | str:
    """The request of a file, or what it lacks."""
    file = folder / "serving.properties"
    file.write_text(one.text)
    try:
        return request_of_properties(file, one.image, Text())
    except LmiCompileError as error:
        message = error.message
    named = [what for what, pattern in MISSING.items() if re.search(pattern, message)]
    assert named, (one, message)
    assert "line " in message or "a published image" in named, message
    return named[0]


def _account(one: CorpusFile, found: LmiRequest) -> None:
    """Check that every property of a file has exactly one effect."""
    named = re.findall(
        r"line (\d+) ", "\n".join([*found.lines.values(), *found.quant_lines, *found.carried_lines, *found.ignored])
    )
    assert sorted({int(number) for number in named}) == list(range(1, len(one.properties) + 1)), (one, found)


def _plan(found: LmiRequest) -> str:
    """Recipe that plans the model of a request with its tp and dtype; why not; or "" where its config is not known."""
    name = next((name for part, name in CONFIGS.items() if part in found.values.get("model", "")), "")
    tp = found.values.get("tp", "1")
    return _planned(name, int(tp), found.values.get("dtype")) if name and tp != "max" else ""


@cache
def _planned(name: str, tp: int, dtype: str | None) -> str:
    hf, headers = published.CONFIGS[name], published.headers(name)
    recipe, read = recipes.for_config(hf)
    try:
        return make_plan(recipe, read, targets.load("inductor"), hf, headers, Ask(tp=tp, dtype=dtype)).recipe
    except ParallelError:
        return "tp"


def test_a_sample_is_understood(tmp_path: Path) -> None:
    outcomes: Counter[str] = Counter()
    for one in sample():
        found = _read(one, tmp_path)
        if isinstance(found, LmiRequest):
            _account(one, found)
        outcomes[found if isinstance(found, str) else "request"] += 1
    assert {*outcomes} == {"request", *MISSING}
    assert outcomes["request"] > 30


def _family(group: str) -> str:
    return next((name for name in FAMILIES if group.startswith(name)), "others")


@pytest.mark.skipif(not CLONE, reason="LMI_COMPILE_DJL_SERVING names no clone of djl-serving")
def test_every_file_of_seven_tags_is_understood(tmp_path: Path) -> None:
    outcomes: dict[str, dict[str, list[int]]] = {}
    plans: Counter[str] = Counter()
    for one in whole(CLONE):
        found = _read(one, tmp_path)
        counts = outcomes.setdefault(one.tag, {}).setdefault(_family(one.group), [0, 0])
        counts[isinstance(found, str)] += 1
        if isinstance(found, LmiRequest):
            _account(one, found)
            plans[_plan(found)] += 1
    assert outcomes == COUNTS
    assert (plans.pop("tp"), plans.pop(""), sum(plans.values())) == PLANNED
