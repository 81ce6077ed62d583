from __future__ import annotations

import errno
import gc
import os
import shutil
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file

import recipes
from compiler.calibration.activations import RESULT, calibrate, workspace
from compiler.calibration.samples import Samples
from compiler.decoder.layer import layer as run_layer
from compiler.decoder.weights import StoredModel
from compiler.errors import CheckpointError, DiskFullError, MemoryCeilingError, NumericsError, RefusedError
from compiler.model.account import account
from compiler.model.config import ModelConfig
from compiler.model.lazy import Lazy
from compiler.model.roles import TensorId, linear_axes
from compiler.quantization.groups import Maxima, groups, layer_scales, quantized_roles
from compiler.storage.checkpoints.checkpoint import Checkpoint, open_checkpoint
from compiler.storage.files.digest import sha256_file
from tests.builds import kill_when_reached
from tests.tiny import TINY, VOCAB
from tests.weights import canonical_weights

Folders = Callable[[str], Path]


@dataclass(frozen=True)
class Opened:
    config: ModelConfig
    tensors: dict[TensorId, Lazy]
    checkpoint: Checkpoint

    def calibrate(self, folder: Path, **options: Any) -> dict[str, Any]:
        folder.mkdir(exist_ok=True)
        return calibrate(
            self.config, self.tensors, self.checkpoint, SAMPLES, work=folder / "work", out=folder, **options
        )


def opened(folder: Path) -> Opened:
    checkpoint = open_checkpoint(folder)
    _, recipe = recipes.for_config(checkpoint.config)
    recipe = recipe.resolve(checkpoint.config)
    config = recipe.model_config(checkpoint.config)
    return Opened(config, account(recipe, config, checkpoint.tensors).tensors, checkpoint)


def _samples(*sizes: int) -> Samples:
    rng = np.random.default_rng(0)
    return Samples(tuple(rng.integers(0, VOCAB, size, np.int64) for size in sizes), "made", "sha256:0")


SAMPLES = _samples(40, 40, 24)


@pytest.mark.parametrize("case", TINY)
def test_every_linear_layer_has_its_maxima(case: str, tiny_checkpoint: Folders, tmp_path: Path) -> None:
    folder = tiny_checkpoint(case)
    model = opened(folder)
    facts = model.calibrate(tmp_path)
    assert (facts["tokens"], facts["samples"]) == (104, 3)
    found = load_file(tmp_path / RESULT)
    weights = canonical_weights(folder)
    expected = set()
    for layer, kind in enumerate(model.config.layer_kinds):
        maxima = {}
        for role in quantized_roles(model.config, kind):
            lead, out, inner = (len(axes) for axes in linear_axes(role))
            weight = np.abs(weights[TensorId(role, "weight", layer)])
            name = f"layers.{layer}.{role}"
            np.testing.assert_array_equal(found[f"{name}.rows"], weight.max(tuple(range(-inner, 0))))
            np.testing.assert_array_equal(found[f"{name}.columns"], weight.max(tuple(range(lead, lead + out))))
            assert found[f"{name}.inputs"].shape == found[f"{name}.columns"].shape
            assert found[f"{name}.outputs"].shape == found[f"{name}.rows"].shape
            assert np.isfinite(found[f"{name}.outputs"]).all()
            assert found[f"{name}.inputs"].max() > 0
            means, squares = found[f"{name}.means"], found[f"{name}.squares"]
            assert means.shape == squares.shape == found[f"{name}.inputs"].shape
            # Over one text: mean x^2 is at least the square of mean |x|, at most the largest |x| times it.
            assert (squares >= np.square(means) * 0.999).all()
            assert (squares <= found[f"{name}.inputs"] * means * 1.001).all()
            expected |= {f"{name}.{what}" for what in ("inputs", "outputs", "means", "squares", "rows", "columns")}
            maxima[role] = Maxima(found[f"{name}.inputs"], found[f"{name}.columns"])
        if not model.config.kv_rank:  # a cached latent has no heads
            expected |= {f"layers.{layer}.{role}.cached" for role in ("attn.k", "attn.v")}
            largest = found[f"layers.{layer}.attn.v.cached"]
            outputs = found[f"layers.{layer}.attn.v.outputs"]
            clipped = np.minimum(outputs, model.config.clip_qkv) if model.config.clip_qkv else outputs
            np.testing.assert_array_equal(largest, clipped)
            assert found[f"layers.{layer}.attn.k.cached"].shape == largest.shape
        assert all(
            np.isfinite(s).all() for s in layer_scales(model.config, groups(model.config, kind), maxima, 0.5).values()
        )
    assert set(found) == expected
    assert not list((tmp_path / "work").iterdir())


MODULES = {
    "llama": ("model.layers.{}.self_attn.k_proj", "attn.k", "model.layers.{}.mlp.down_proj", "mlp.down"),
    "qwen3": ("model.layers.{}.self_attn.v_proj", "attn.v", "model.layers.{}.mlp.up_proj", "mlp.up"),
    "gemma": ("model.layers.{}.self_attn.o_proj", "attn.o", "model.layers.{}.mlp.gate_proj", "mlp.gate"),
    "gpt2": ("transformer.h.{}.attn.c_proj", "attn.o", "transformer.h.{}.mlp.c_fc", "mlp.up"),
    "gptj": ("transformer.h.{}.attn.q_proj", "attn.q", "transformer.h.{}.mlp.fc_out", "mlp.down"),
    "starcoder2": ("model.layers.{}.self_attn.q_proj", "attn.q", "model.layers.{}.mlp.c_proj", "mlp.down"),
}


@pytest.mark.parametrize("case", MODULES)
def test_maxima_are_those_that_hooks_see_in_transformers(case: str, tiny_checkpoint: Folders, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    folder = tiny_checkpoint(case)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    seen: dict[str, torch.Tensor] = {}

    def keep(name: str, values: torch.Tensor) -> None:
        largest = values.detach().abs().flatten(0, -2).amax(0)
        seen[name] = torch.maximum(seen[name], largest) if name in seen else largest

    def hook(name: str) -> Callable[..., None]:
        def both(_: torch.nn.Module, x: tuple[torch.Tensor, ...], y: torch.Tensor) -> None:
            keep(f"{name}.inputs", x[0])
            keep(f"{name}.outputs", y)

        return both

    first, role, second, other = MODULES[case]
    for layer in range(3):
        for pattern, of in ((first, role), (second, other)):
            model.get_submodule(pattern.format(layer)).register_forward_hook(hook(f"layers.{layer}.{of}"))
    with torch.no_grad():
        for ids in SAMPLES.ids:
            model(torch.from_numpy(ids)[None])
    opened(folder).calibrate(tmp_path)
    found = load_file(tmp_path / RESULT)
    assert len(seen) == 12
    for name, expected in seen.items():
        np.testing.assert_allclose(found[name].reshape(-1), expected.numpy(), rtol=1e-4, atol=1e-5)


def test_the_ceiling_changes_no_bit_and_is_kept(tiny_checkpoint: Folders, tmp_path: Path) -> None:
    model = opened(tiny_checkpoint("mixtral"))
    model.calibrate(tmp_path / "much", max_memory=1 << 40)
    with pytest.raises(MemoryCeilingError, match="for the weights of a layer") as caught:
        model.calibrate(tmp_path / "little", max_memory=1000)
    least = int(caught.value.hint.split("at least ")[1].split(",")[0])
    model.calibrate(tmp_path / "little", max_memory=least)
    assert sha256_file(tmp_path / "little" / RESULT) == sha256_file(tmp_path / "much" / RESULT)


@pytest.mark.parametrize("name", ["layer", "layer_in_float32"])
def test_nothing_of_a_layer_is_left_when_the_next_is_read(
    name: str, tiny_checkpoint: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[weakref.ref[torch.Tensor]] = []
    real = getattr(StoredModel, name)

    def load(self: StoredModel, layer: int) -> dict[str, torch.Tensor]:
        assert all(tensor() is None for tensor in given)
        found: dict[str, torch.Tensor] = real(self, layer)
        given.extend(weakref.ref(tensor) for tensor in found.values())
        return found

    model = opened(tiny_checkpoint("mixtral"))
    # Just enough for weights as they are stored, or all that is asked for.
    stored = StoredModel(model.config, model.tensors, model.checkpoint)
    spare = 0 if name == "layer" else 1 << 30
    monkeypatch.setattr(StoredModel, name, load)
    gc.disable()
    try:
        model.calibrate(tmp_path, max_memory=workspace(model.config, 40) + stored.largest_layer + spare)
    finally:
        gc.enable()
    assert len(given) > 2 * model.config.layers


def test_progress_counts_tokens_times_layers(tiny_checkpoint: Folders, tmp_path: Path) -> None:
    calls: list[tuple[int, int]] = []
    opened(tiny_checkpoint("llama")).calibrate(tmp_path, progress=lambda *call: calls.append(call))
    assert [done for done, _ in calls] == [40, 80, 104, 144, 184, 208, 248, 288, 312]
    assert {total for _, total in calls} == {312}


_KILLED = """
import sys, time
from pathlib import Path
from tests.calibration.test_activations import opened
def progress(done, total):
    if done == int(sys.argv[3]):
        print("reached", flush=True)
        time.sleep(60)
opened(Path(sys.argv[1])).calibrate(Path(sys.argv[2]), progress=progress)
"""


@pytest.mark.parametrize(("reached", "left"), [(40, 312), (144, 208), (312, 104)])
def test_a_kill_loses_one_layer_at_most(tiny_checkpoint: Folders, tmp_path: Path, reached: int, left: int) -> None:
    model = opened(tiny_checkpoint("llama"))
    model.calibrate(tmp_path / "whole")
    kill_when_reached(_KILLED, str(model.checkpoint.folder), str(tmp_path / "killed"), str(reached))
    assert not (tmp_path / "killed" / RESULT).exists()
    totals: set[int] = set()
    model.calibrate(tmp_path / "killed", progress=lambda _, total: totals.add(total))
    assert totals == {left}
    assert sha256_file(tmp_path / "killed" / RESULT) == sha256_file(tmp_path / "whole" / RESULT)
    assert not list((tmp_path / "killed" / "work").iterdir())


def test_damaged_files_of_an_earlier_run_are_made_again(tiny_checkpoint: Folders, tmp_path: Path) -> None:
    model = opened(tiny_checkpoint("llama"))
    model.calibrate(tmp_path / "whole")
    work = tmp_path / "other" / "work"
    work.mkdir(parents=True)
    shutil.copy(tmp_path / "whole" / RESULT, work / "layer-0.safetensors")
    (work / "x-1").write_bytes(b"cut short")
    model.calibrate(tmp_path / "other")
    assert sha256_file(tmp_path / "other" / RESULT) == sha256_file(tmp_path / "whole" / RESULT)


@pytest.mark.parametrize("call", [1, 3, 6, 9])
def test_a_full_disk_ends_it_and_room_lets_it_go_on(
    tiny_checkpoint: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: int
) -> None:
    model = opened(tiny_checkpoint("llama"))
    model.calibrate(tmp_path / "whole")
    real, calls = os.write, 0

    def full(*args: Any) -> int:
        nonlocal calls
        calls += 1
        if calls == call:
            raise OSError(errno.ENOSPC, "no space left on device")
        return real(*args)

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(DiskFullError, match="no space for activations") as caught:
            model.calibrate(tmp_path / "other")
    assert "fewer or shorter samples" in caught.value.hint
    assert not list((tmp_path / "other").glob("**/*.part"))
    assert not (tmp_path / "other" / RESULT).exists()
    model.calibrate(tmp_path / "other")
    assert sha256_file(tmp_path / "other" / RESULT) == sha256_file(tmp_path / "whole" / RESULT)


def test_no_room_is_told_before_anything_is_read(
    tiny_checkpoint: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(DiskFullError, match=f"needs {2 * 4 * 104 * 96:,} bytes, 1,000 are free"):
        opened(tiny_checkpoint("llama")).calibrate(tmp_path)
    assert not list((tmp_path / "work").iterdir())


def _changed(folder: Path, copy: Path, name: str, change: Callable[[torch.Tensor], None]) -> Path:
    shutil.copytree(folder, copy)
    tensors = load_torch(copy / "model.safetensors")
    change(tensors[name])
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    return copy


def poisoned(folder: Path, copy: Path, name: str, value: float) -> Path:
    """A copy of a checkpoint with one value in the tensor `name` replaced."""

    def change(tensor: torch.Tensor) -> None:
        tensor.view(-1)[7] = value

    return _changed(folder, copy, name, change)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("case", "name"),
    [
        ("llama", "model.layers.1.self_attn.v_proj.weight"),
        ("llama", "model.layers.2.input_layernorm.weight"),
        ("gpt2", "transformer.h.0.attn.c_attn.bias"),
    ],
)
def test_weights_that_are_not_finite_are_named(
    tiny_checkpoint: Folders, tmp_path: Path, case: str, name: str, value: float
) -> None:
    folder = poisoned(tiny_checkpoint(case), tmp_path / "model", name, value)
    with pytest.raises(CheckpointError, match=f"NaN or infinite values in {name} of the checkpoint"):
        opened(folder).calibrate(tmp_path / "out")


def test_activations_that_overflow_are_named(
    tiny_checkpoint: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def overflowing(*args: Any) -> torch.Tensor:
        return run_layer(*args) * 1e38

    monkeypatch.setattr("compiler.decoder.layer.layer", overflowing)
    with pytest.raises(NumericsError, match="activations of layer 1 are not finite"):
        opened(tiny_checkpoint("llama")).calibrate(tmp_path)


def _silence(up: torch.Tensor) -> None:
    up[:5] = 0


def test_dead_channels_are_counted_and_get_no_scale(tiny_checkpoint: Folders, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    folder = _changed(tiny_checkpoint("llama"), tmp_path / "model", name, _silence)
    model = opened(folder)
    facts = model.calibrate(tmp_path / "out")
    assert facts["dead_channels"] == {"layers.1.mlp.down": 5}
    found = load_file(tmp_path / "out" / RESULT)
    maxima = {
        role: Maxima(found[f"layers.1.{role}.inputs"], found[f"layers.1.{role}.columns"])
        for role in quantized_roles(model.config, model.config.layer_kinds[1])
    }
    scales = layer_scales(model.config, groups(model.config, model.config.layer_kinds[1]), maxima, 0.5)
    assert scales["mlp.down"][:5].tolist() == [1] * 5
    assert (scales["mlp.down"][5:] != 1).all()


def test_float8_weights_are_refused(tiny_checkpoint: Folders, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_checkpoint("llama"), folder)
    tensors = load_torch(folder / "model.safetensors")
    save_file(
        {name: t.to(torch.float8_e4m3fn) for name, t in tensors.items()}, folder / "model.safetensors",
        metadata={"format": "pt"},
    )  # fmt: skip
    with pytest.raises(RefusedError, match=r"read weights in .*; found F8_E4M3"):
        opened(folder).calibrate(tmp_path / "out")
