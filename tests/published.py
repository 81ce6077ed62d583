"""Published checkpoints without their weights: config.json, and the names and shapes of their tensors.

`recipes/published/NAME.json` are configs as published: nothing is added, left out or renamed there, and the digest in
sources.json forbids it. `found` says where the text was found; an empty one says that no public copy was at hand: the
file then has the keys that the recipes read, and may differ from the published one.

The shapes are written out from the architectures, not from the recipes: what a recipe reads is compared with it.
`PARAMETERS` are the counts that the hub's model pages show, buffers left out; in the plan of a model every parameter
stands once.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from tests.published_shapes import BUFFERS, REPEATED, SHAPES

FOLDER = Path(__file__).parents[1] / "recipes" / "published"
SOURCES: dict[str, dict[str, str]] = json.loads((FOLDER / "sources.json").read_bytes())
"""By name: `model`, its id on the hub; `date` (year-month); where the config was `found`; `sha256` of the file;
`stored`: dtype of weights whose config.json names none, float32 for the others."""


@dataclass(frozen=True)
class Tensor:
    dtype: str
    shape: tuple[int, ...]


CONFIGS: dict[str, dict[str, Any]] = {name: json.loads((FOLDER / f"{name}.json").read_bytes()) for name in SOURCES}
"""config.json by name, exactly as its file has it: tests change copies."""

PARAMETERS = {
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "qwen2.5-0.5b": 494_032_768,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3.1-70b": 70_553_706_496,
    "tinyllama": 1_100_048_384,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "qwen2-7b": 7_615_616_512,
    "qwen2-0.5b": 494_032_768,
    "qwen1.5-moe-a2.7b": 14_315_784_192,
    "qwen3-8b": 8_190_735_360,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "olmo2-7b": 7_298_617_344,
    "command-r": 34_980_831_232,
    "gemma-7b": 8_537_680_896,
    "phi3-mini": 3_821_079_552,
    "glm-4-9b-hf": 9_399_951_360,
    "starcoder2-7b": 7_173_923_840,
    "gpt2": 124_439_808,
    "gptj-6b": 6_050_882_784,
    "gpt-neox-20b": 20_554_567_680,
    "pythia-6.9b": 6_857_302_016,
    "starcoder": 15_517_456_384,
    "santacoder": 1_124_886_528,
    "qwen-7b": 7_721_324_544,
    "baichuan2-13b": 13_896_668_160,
    "chatglm3-6b": 6_243_584_000,
    "internlm-7b": 7_321_948_160,
    "internlm2-7b": 7_737_708_544,
    "gemma2-2b-it": 2_614_341_888,
    "gemma3-1b-it": 999_885_952,
    "stablelm2-zephyr-1.6b": 1_644_515_328,
    "phi-2": 2_779_683_840,
    "falcon-40b-instruct": 41_303_293_952,
    "mpt-7b-instruct": 6_649_286_656,
    "bloom-560m": 559_214_592,
    "granite-3.3-8b": 8_170_864_640,
    "smollm3-3b": 3_075_098_624,
    "command-r7b": 8_028_033_024,
    "falcon-7b": 6_921_720_704,
    "falcon-rw-1b": 1_311_625_216,
    "opt-1.3b": 1_315_758_080,
    "gpt-oss-20b": 20_914_757_184,
    "deepseek-v2-lite": 15_706_484_224,
    "deepseek-v3": 671_026_419_200,
}


def headers(name: str) -> dict[str, Tensor]:
    """Names, shapes and dtypes of the tensors in the safetensors files of a published checkpoint."""
    hf = CONFIGS[name]
    dtype = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}[
        hf.get("torch_dtype") or SOURCES[name].get("stored", "float32")
    ]
    return {key: Tensor(dtype, shape) for key, shape in SHAPES[hf["architectures"][0]](hf).items()}


def write_headers(name: str, folder: Path) -> Path:
    """Write a published checkpoint to `folder`: config.json, and a safetensors file whose data is a hole."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIGS[name]))
    head: dict[str, Any] = {}
    end = 0
    for key, tensor in headers(name).items():
        begin, end = end, end + prod(tensor.shape) * {"F32": 4, "F16": 2, "BF16": 2}[tensor.dtype]
        head[key] = {"dtype": tensor.dtype, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    data = json.dumps(head).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(data).to_bytes(8, "little") + data)
        file.truncate(8 + len(data) + end)
    return folder


def parameters(name: str) -> int:
    """How many numbers of these are parameters."""
    repeated = REPEATED.get(CONFIGS[name]["architectures"][0], ())
    return sum(
        prod(tensor.shape) for key, tensor in headers(name).items() if not key.endswith(BUFFERS) and key not in repeated
    )
