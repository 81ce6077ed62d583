from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from compiler.calibration.samples import HELD_OUT, Samples, read_samples
from compiler.calibration.scales import RESULT, make_scales
from compiler.decoder.forward import forward
from compiler.decoder.kernels import Kernels
from compiler.decoder.quantized import definition, experts
from compiler.decoder.weights import StoredModel
from compiler.errors import NumericsError
from compiler.numerics.gate.measure import measure
from compiler.numerics.gate.sides import of_files
from compiler.numerics.gate.verdict import Verdict, judge
from compiler.quantization.scaling import Scaling
from compiler.quantization.schemes import SCHEMES, Tolerance
from tests.calibration.test_activations import SAMPLES, Opened, opened
from tests.calibration.test_scales import converted
from tests.tiny import TINY, VOCAB
from tests.weights import rank_weights

Folders = Callable[[str], Path]
INT8 = SCHEMES["int8-weight"]
LOOSE = Tolerance(perplexity=0.05, kl=0.05, cosine=0.99)


def _quantized(model: Opened, folder: Path, tp: int) -> list[Path]:
    make_scales(model.config, model.tensors, model.checkpoint, folder, scaling=Scaling(INT8))
    converted(model, folder / RESULT, folder / f"tp{tp}", tp)
    return [folder / f"tp{tp}" / "weights" / f"rank{rank}.safetensors" for rank in range(tp)]


def _measured(model: Opened, files: list[Path], kernels: Kernels | None = None, samples: Samples = SAMPLES) -> Verdict:
    stored = StoredModel(model.config, model.tensors, model.checkpoint)
    return measure(stored, of_files(model.config, files, kernels or Kernels()), samples)


@pytest.mark.parametrize("case", TINY)
def test_int8_weights_lose_little(case: str, tiny_checkpoint: Folders, tmp_path: Path) -> None:
    model = opened(tiny_checkpoint(case))
    tp = 3 if case == "llama/three-kv-heads" else 4
    verdict = _measured(model, _quantized(model, tmp_path, tp))
    assert [part.name for part in verdict.parts] == [
        f"layers.{layer}.{part}" for layer in range(model.config.layers) for part in ("attn", "mlp")
    ]
    assert all(0 < part.relative < 0.03 for part in verdict.parts)
    assert all(part.cosine > 0.999 for part in verdict.parts)
    assert verdict.tokens == 104
    assert verdict.kl >= 0
    judge(verdict, LOOSE)


def test_perplexity_is_that_of_the_logits(tiny_checkpoint: Folders, tmp_path: Path) -> None:
    model = opened(tiny_checkpoint("llama"))
    verdict = _measured(model, _quantized(model, tmp_path, 2))
    (weights,) = rank_weights(model.checkpoint.folder, 1)
    losses = []
    for ids in SAMPLES.ids:
        logits = forward(model.config, weights, torch.from_numpy(ids)[None])[0]
        losses.append(torch.nn.functional.cross_entropy(logits[:-1], torch.from_numpy(ids[1:]), reduction="none"))
    np.testing.assert_allclose(verdict.perplexity_float, math.exp(torch.cat(losses).mean()), rtol=1e-5)


@pytest.mark.parametrize("case", ["llama", "gptj", "mixtral", "baichuan/v1-13b", "gpt2", "gemma2", "granite", "bloom"])
def test_without_quantization_nothing_is_lost(case: str, tiny_checkpoint: Folders, tmp_path: Path) -> None:
    model = opened(tiny_checkpoint(case))
    for rank, tensors in enumerate(rank_weights(model.checkpoint.folder, 2)):
        save_file({name: t.contiguous() for name, t in tensors.items()}, tmp_path / f"{rank}")
    verdict = _measured(model, [tmp_path / "0", tmp_path / "1"])
    assert verdict.kl < 1e-8
    assert verdict.top1_agreement == 1
    assert abs(verdict.increase) < 1e-5
    assert all(part.relative < 1e-5 for part in verdict.parts)


def _double_scale(tensors: dict[str, torch.Tensor]) -> None:
    tensors["layers.1.attn.o.scale"] *= 2


def _swap_halves(tensors: dict[str, torch.Tensor]) -> None:
    weight = tensors["layers.2.mlp.gate_up.weight"]
    tensors["layers.2.mlp.gate_up.weight"] = weight.roll(weight.shape[0] // 2, 0)


def _shift_rows(tensors: dict[str, torch.Tensor]) -> None:
    tensors["layers.0.attn.qkv.scale"] = tensors["layers.0.attn.qkv.scale"].roll(1)


def _not_finite(tensors: dict[str, torch.Tensor]) -> None:
    tensors["layers.1.mlp.down.scale"][3] = float("nan")


@pytest.mark.parametrize(
    ("mutate", "part"),
    [
        (_double_scale, "layers.1.attn"),
        (_swap_halves, "layers.2.mlp"),
        (_shift_rows, "layers.0.attn"),
        (_not_finite, "layers.1.mlp"),
    ],
)
def test_a_fault_in_one_layer_of_one_rank_is_named(
    mutate: Callable[[dict[str, torch.Tensor]], None], part: str, tiny_checkpoint: Folders, tmp_path: Path
) -> None:
    model = opened(tiny_checkpoint("llama"))
    files = _quantized(model, tmp_path, 4)
    tensors = load_file(files[2])
    mutate(tensors)
    save_file(tensors, files[2])
    verdict = _measured(model, files)
    beyond = {error.name for error in verdict.parts if not error.cosine >= INT8.tolerance.cosine}
    # A NaN spreads to what follows in the files' own stream, but not to the parts on the float model's.
    assert beyond == {part}
    with pytest.raises(NumericsError, match=f"`{part}`: cosine") as caught:
        judge(verdict, INT8.tolerance)
    assert caught.value.exit_code == 8


def test_tokens_in_int8_are_measured_too(tiny_checkpoint: Folders, tmp_path: Path) -> None:
    model = opened(tiny_checkpoint("qwen2_moe"))
    files = _quantized(model, tmp_path, 2)
    per_token = definition("per_token")
    kernels = Kernels(quantized=per_token, quantized_experts=experts(per_token))
    weights, both = _measured(model, files), _measured(model, files, kernels)
    assert np.mean([part.relative for part in both.parts]) > np.mean([part.relative for part in weights.parts])
    judge(both, LOOSE)


def test_a_loss_within_the_tolerance_passes_and_no_more() -> None:
    fine = Verdict((), 10, "sha256:0", kl=0.01, top1_agreement=1.0, perplexity_float=10.0, perplexity=10.1)
    judge(fine, Tolerance(0.011, 0.01, 0.9))
    with pytest.raises(NumericsError, match=r"perplexity 10 becomes 10.1 \(\+1.00%\), expected at most \+0.50%"):
        judge(fine, Tolerance(0.005, 0.01, 0.9))
    with pytest.raises(NumericsError, match=r"KL divergence 0.01, expected at most 0.005"):
        judge(fine, Tolerance(0.011, 0.005, 0.9))
    broken = Verdict((), 10, "sha256:0", float("nan"), 0.0, 10.0, float("nan"))
    with pytest.raises(NumericsError, match="beyond its tolerance"):
        judge(broken, Tolerance(1e9, 1e9, 0))


def test_a_verdict_is_data(tiny_checkpoint: Folders, tmp_path: Path) -> None:
    model = opened(tiny_checkpoint("llama"))
    samples = read_samples(None, model.checkpoint.folder, vocab=VOCAB, count=2, length=64, own=HELD_OUT)
    calls: list[tuple[int, int]] = []
    stored = StoredModel(model.config, model.tensors, model.checkpoint)
    files = _quantized(model, tmp_path, 1)
    verdict = measure(stored, of_files(model.config, files, Kernels()), samples, lambda *call: calls.append(call))
    assert calls == [(64 * i, 384) for i in range(1, 7)]
    told = json.loads(json.dumps(verdict.to_json()))
    assert told["perplexity_increase"] == verdict.increase
    assert told["parts"][0].keys() == {"name", "relative", "cosine", "channel"}
    assert told["text"] == samples.text
