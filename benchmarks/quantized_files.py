"""Rank files of a model in a quantization scheme of any target, and their scheme, for the gate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compiler.decoder.weights import StoredModel
from compiler.model.dtypes import DTYPES
from compiler.numerics.gate.sides import side_of
from compiler.numerics.gate.simulation import SchemeSide, split_of
from compiler.pipeline import rank_files as convert
from compiler.pipeline.steps.gate import tolerance
from compiler.pipeline.support import taken
from compiler.quantization.proof_levels import CPU
from compiler.quantization.scale_tensors import scale_tensors
from compiler.quantization.schemes import FLOAT

if TYPE_CHECKING:
    from pathlib import Path

    from benchmarks.planted import Planted
    from compiler.model.config import ModelConfig
    from compiler.numerics.gate.sides import Side
    from compiler.quantization.request import Quant
    from compiler.quantization.schemes import Tolerance
    from compiler.targets.options import TargetOptions
    from compiler.targets.protocols import Target

DTYPE = "bfloat16"


@dataclass(frozen=True)
class QuantizedFiles:
    """Rank files `files` of a target in `folder`. `scheme`: what they must compute."""

    target: Target[Any]
    config: ModelConfig
    options: TargetOptions
    folder: Path
    files: tuple[Path, ...]
    scheme: SchemeSide
    tolerance: Tolerance

    def side(self, device: str = CPU) -> Side:
        """The files, opened for the gate."""
        layout = self.target.layout
        assert layout is not None
        return side_of(layout, self.config, self.options, self.folder, self.files, 1 << 30, device=device)


def quantize(model: Planted, target: Target[Any], asked: Quant, tp: int) -> QuantizedFiles:
    """Write the files into the model's folder. Raises RefusedError where the target does not take `asked`."""
    config, out, layout = model.config, model.out, target.layout
    assert layout is not None
    found = taken(target, config, asked, tp, target.options(), None)
    merged, sources = model.tensors, model.checkpoint
    if scale_tensors(config, model.tensors, found.scaling):
        assert found.scaling is not None
        merged, sources = model.scaled(found.scaling)
    plans = layout.rank_plans(config, tp, merged, DTYPES[DTYPE], found.options)
    convert.convert(plans, sources, out, crc=None)
    for file, data in layout.files(config, tp, DTYPE, found.options).items():
        (out / file).write_bytes(data)
    scheme, scaling = found.quant.scheme, found.scaling
    at_load = scheme.weights if scheme is not None and (scaling is None or scaling.scheme.weights == FLOAT) else ""
    split = split_of(layout.layouts(config, tp, found.options))
    own = SchemeSide(StoredModel(config, merged, sources), scaling, DTYPE, at_load, split)
    paths = tuple(out / plan.file for plan in plans)
    return QuantizedFiles(target, config, found.options, out, paths, own, tolerance(found.quant))
