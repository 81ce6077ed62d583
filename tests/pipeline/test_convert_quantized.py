"""Weights rounded and packed while they stream, against numpy on the whole matrix."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from compiler.errors import MemoryCeilingError
from compiler.model.lazy import Lazy, Packing, Quantize, RankPlan, take, whole
from compiler.pipeline.rank_files import convert
from compiler.quantization.formats import fp8
from compiler.quantization.rounding import quantize
from compiler.storage.checkpoints.checkpoint import open_checkpoint
from tests.pipeline.test_convert import bits
from tests.quantization import numpy_int4

GROUP = 8
DTYPES: dict[str, str] = {"int8": "I8", "int4": "I8", "fp8": "F8_E4M3"}


def _tensors(shape: tuple[int, ...], grouped: bool, seed: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal(shape, np.float32) * np.float32(3)
    *lead, rows, width = shape
    of = (*lead, rows, width // GROUP) if grouped else (*lead, rows)
    columns = rng.uniform(0.5, 2, (*lead, width)).astype(np.float32)
    return {"w": weight, "steps": rng.uniform(0.5, 4, of).astype(np.float32), "columns": columns}


def _expected(tensors: dict[str, np.ndarray], form: str) -> np.ndarray:
    """Row by row and group by group."""
    weight = tensors["w"] * tensors["columns"][..., None, :]
    steps = tensors["steps"]
    each = np.repeat(steps, GROUP, -1) if steps.ndim == weight.ndim else steps[..., None]
    if form == "fp8":
        return fp8.encode(weight * each).view(np.int8)
    least, most = {"int8": (-128, 127), "int4": (-8, 7)}[form]
    found: np.ndarray = np.clip(np.rint(weight * each), least, most).astype(np.int8)
    return found


def _rank(tensors: dict[str, np.ndarray], axis: int, rank: int, tp: int) -> dict[str, Lazy]:
    """A part of `w` along its last or its last but one axis, and what belongs to that."""
    found = {name: whole(name, array.shape, "F32") for name, array in tensors.items()}
    depth = tensors["w"].ndim
    for name, lazy in found.items():
        place = depth + axis
        if name == "columns":
            place = depth - 2 if axis == -1 else depth
        if place < len(lazy.shape):
            size = lazy.shape[place] // tp
            found[name] = take(lazy, place, rank * size, (rank + 1) * size)
    return found


@given(
    lead=st.sampled_from([(), (3,)]),
    grouped=st.booleans(),
    form=st.sampled_from(["int8", "int4", "fp8"]),
    packing=st.sampled_from([None, Packing(-2, 1), Packing(-1, 4), Packing(-2, 2), Packing(-1, 1)]),
    axis=st.sampled_from([-1, -2]),
    tp=st.sampled_from([1, 2]),
    memory=st.sampled_from([1 << 22, 60_000]),
    seed=st.integers(0, 9),
)
def test_sharding_rounding_and_packing_commute(
    lead: tuple[int, ...],
    grouped: bool,
    form: str,
    packing: Packing | None,
    axis: int,
    tp: int,
    memory: int,
    seed: int,
) -> None:
    tensors = _tensors((*lead, 24, 32), grouped, seed)
    packing = packing if form == "int4" else None
    plans = []
    for rank in range(tp):
        of = _rank(tensors, axis, rank, tp)
        step = Quantize(of["steps"], of["columns"], form)
        tensor = replace(of["w"], dtype=DTYPES[form], quantize=step, packing=packing)
        plans.append(RankPlan(f"rank{rank}.safetensors", (("w", tensor),)))
    with TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "config.json").write_text("{}")
        save_file(tensors, folder / "model.safetensors")
        convert(plans, open_checkpoint(folder), folder / "out", max_memory=memory)
        parts = [bits(folder / "out" / plan.file)["w"].view(np.uint8) for plan in plans]
    if packing:
        parts = [numpy_int4.unpack(part, packing.axis, packing.distance).view(np.uint8) for part in parts]
    np.testing.assert_array_equal(np.concatenate(parts, axis).view(np.int8), _expected(tensors, form))


def test_integers_of_a_checkpoint_are_packed_as_they_are(tmp_path: Path) -> None:
    integers = np.random.default_rng(1).integers(-8, 8, (12, 20), np.int8)
    (tmp_path / "config.json").write_text("{}")
    save_file({"w": integers}, tmp_path / "model.safetensors")
    tensor = replace(whole("w", integers.shape, "I8"), packing=Packing(-2, 1))
    assert (tensor.stored_shape, tensor.nbytes) == ((6, 20), 120)
    convert([RankPlan("rank0.safetensors", (("w", tensor),))], open_checkpoint(tmp_path), tmp_path / "out")
    found = bits(tmp_path / "out" / "rank0.safetensors")["w"]
    np.testing.assert_array_equal(numpy_int4.unpack(found, 0), integers)


def test_rows_that_are_packed_together_stay_together(tmp_path: Path) -> None:
    tensors = _tensors((4, 4096), grouped=False, seed=0)
    (tmp_path / "config.json").write_text("{}")
    save_file(tensors, tmp_path / "model.safetensors")
    of = _rank(tensors, -2, 0, 1)
    tensor = replace(of["w"], dtype="I8", quantize=Quantize(of["steps"], None, "int4"), packing=Packing(-2, 1))
    plans = [RankPlan("rank0.safetensors", (("w", tensor),))]
    with pytest.raises(MemoryCeilingError, match="one row of `w` takes 262,144 bytes") as caught:
        convert(plans, open_checkpoint(tmp_path), tmp_path / "out", max_memory=1 << 18)
    needed = int(caught.value.hint.split()[-1])
    convert(plans, open_checkpoint(tmp_path), tmp_path / "out", max_memory=needed)
    found = numpy_int4.unpack(bits(tmp_path / "out" / "rank0.safetensors")["w"], 0)
    np.testing.assert_array_equal(found, quantize(tensors["w"], tensors["steps"], None, "int4"))


def test_an_axis_that_does_not_divide_cannot_be_packed() -> None:
    with pytest.raises(ValueError, match=r"axis 0 of \(3, 4\) does not divide into runs of 2"):
        _ = replace(whole("w", (3, 4), "I8"), packing=Packing(-2, 1)).nbytes
