"""What is planned of scales is what is written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from compiler.quant.asked import Quant
from compiler.quant.planned import Smoothing, planned
from compiler.quant.schemes import SCHEMES
from compiler.stages import calibrate
from compiler.stages.scale import RESULT, beside, make_scales
from tests.stages.test_calibrate import opened
from tests.tiny import TINY

QUANTS = {
    "int8-weight": Quant(SCHEMES["int8-weight"]),
    "smoothquant": Quant(SCHEMES["smoothquant"]),
    "per tensor": Quant(replace(SCHEMES["smoothquant"], weight_scales="tensor")),
}


@pytest.mark.parametrize("case", TINY)
def test_what_is_planned_is_what_is_written(case: str, tiny_checkpoint: Callable[[str], Path], tmp_path: Path) -> None:
    model = opened(tiny_checkpoint(case))
    model.calibrate(tmp_path)
    maxima = load_file(tmp_path / calibrate.RESULT)
    for name, quant in QUANTS.items():
        smoothings: tuple[Smoothing, ...] = ("folded", "explicit") if quant.smooths else ("folded",)
        for smoothing in smoothings:
            assert quant.scheme is not None
            make_scales(
                model.config, model.tensors, model.checkpoint, tmp_path,
                scheme=quant.scheme, smoothing=smoothing, maxima=maxima if quant.smooths else None,
            )  # fmt: skip
            merged, _ = beside(model.tensors, model.checkpoint, tmp_path / RESULT)
            expected = {tensor: lazy for tensor, lazy in merged.items() if lazy != model.tensors.get(tensor)}
            assert planned(model.config, model.tensors, quant, smoothing) == expected, (name, smoothing)


def test_nothing_is_planned_where_nothing_is_asked(tiny_checkpoint: Callable[[str], Path]) -> None:
    model = opened(tiny_checkpoint("llama"))
    assert planned(model.config, model.tensors, Quant(), "folded") == {}
