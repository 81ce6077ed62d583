"""What is planned of scales is what is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.numpy import load_file

from compiler.calibration import activations as calibrate
from compiler.calibration.scales import RESULT, make_scales, with_scales
from compiler.quantization.scale_tensors import scale_tensors
from compiler.quantization.scaling import Scaling
from compiler.quantization.schemes import SCHEMES, UNQUANTIZED
from tests.calibration.test_activations import opened
from tests.tiny import TINY, write_checkpoint

SMOOTH = SCHEMES["smoothquant"]
COARSE = replace(SMOOTH, weight_scales="tensor", activation_scales="tensor")
SCALINGS = {
    "int8-weight": Scaling(SCHEMES["int8-weight"]),
    "smoothquant": Scaling(SMOOTH),
    "per tensor": Scaling(replace(SMOOTH, weight_scales="tensor")),
    "norms": Scaling(SMOOTH, "norms"),
    "static": Scaling(COARSE, "norms", joined=(("attn.q", "attn.k", "attn.v"),)),
    "fp8": Scaling(replace(SCHEMES["fp8"], weight_scales="tensor", activation_scales="tensor"), one_scale=True),
    "cache": Scaling(UNQUANTIZED, cache="int8"),
    "cache by heads": Scaling(SMOOTH, cache="fp8", cache_scales="head"),
}


@pytest.mark.parametrize("case", TINY)
def test_written_scales_are_the_planned_ones(case: str, tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    _check(tiny_checkpoint(case), SCALINGS, tmp_path)


def test_groups_and_inputs_that_are_multiplied(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 128, "intermediate_size": 256, "head_dim": 32, "num_attention_heads": 4}
    scalings = {name: Scaling(SCHEMES[name], "inputs") for name in ("int4-weight", "awq", "smoothquant")}
    _check(write_checkpoint("llama", tmp_path / "model", **sizes), scalings, tmp_path)


def _check(folder: Path, scalings: dict[str, Scaling], tmp_path: Path) -> None:
    model = opened(folder)
    model.calibrate(tmp_path)
    maxima = load_file(tmp_path / calibrate.RESULT)
    for name, scaling in scalings.items():
        if scaling.cache and model.config.kv_rank:
            continue  # no target quantizes a cached latent
        make_scales(model.config, model.tensors, model.checkpoint, tmp_path, scaling=scaling, maxima=maxima)
        merged, _ = with_scales(model.tensors, model.checkpoint, tmp_path / RESULT)
        expected = {tensor: lazy for tensor, lazy in merged.items() if lazy != model.tensors.get(tensor)}
        assert scale_tensors(model.config, model.tensors, scaling) == expected, name


def test_nothing_is_planned_where_nothing_is_asked(tiny_checkpoint: Callable[[str], Path]) -> None:
    model = opened(tiny_checkpoint("llama"))
    assert scale_tensors(model.config, model.tensors, None) == {}
