"""Inputs of compiled segments."""

from __future__ import annotations

import re

import pytest
import torch

from compiler.decoder.rankfile.layout import layouts
from compiler.decoder.segments import specs, weight_shapes
from compiler.model.limits import Limits
from compiler.targets.inductor.graph import input_dtype
from tests.tiny import TINY, model_config

STORED = {"F32": torch.float32, None: torch.bfloat16}


@pytest.mark.parametrize("case", TINY)
def test_segments_are_compiled_for_the_dtypes_of_the_rank_file(case: str) -> None:
    """A package reads the bytes that it is given: a router's correction of another dtype chooses other experts."""
    config = model_config(case)
    stored = {re.sub(r"^layers\.\d+\.", "", layout.name): STORED[layout.dtype] for layout in layouts(config, 1)}
    compiled: dict[str, torch.dtype] = {}
    for spec in specs(config, 1, "bfloat16", Limits(64, 2)):
        shapes = weight_shapes(spec)
        compiled |= {name: input_dtype(name, spec, shapes) for name in shapes}
    assert compiled == {name: dtype for name, dtype in stored.items() if name in compiled}
    read = {name for name in stored if name.startswith(("attn.", "mlp.", "moe.")) and "post_norm" not in name}
    assert compiled.keys() >= read  # norms after the sum of ranks belong to no segment
