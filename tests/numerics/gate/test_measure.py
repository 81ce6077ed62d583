from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from compiler.calibration.samples import HELD_OUT, Samples, read_samples
from compiler.calibration.scales import RESULT, make_scales, with_scales
from compiler.decoder.forward import forward
from compiler.decoder.kernels import Kernels
from compiler.decoder.quantized import definition, experts
from compiler.decoder.weights import StoredModel
from compiler.errors import NumericsError
from compiler.numerics.gate.evidence import Evidence, TokenBlock, blocks_of
from compiler.numerics.gate.measure import measure
from compiler.numerics.gate.sides import of_files
from compiler.numerics.gate.simulation import SchemeSide
from compiler.numerics.gate.verdict import PartError, Verdict, judge, part_problems, undecided
from compiler.quantization.scaling import Scaling
from compiler.quantization.schemes import SCHEMES, Tolerance
from tests.calibration.test_activations import SAMPLES, Opened, opened
from tests.calibration.test_scales import converted
from tests.tiny import TINY, VOCAB
from tests.weights import rank_weights

Folders = Callable[[str], Path]
INT8 = SCHEMES["int8-weight"]
LOOSE = Tolerance(perplexity=0.05, kl=0.05, stream=0.05)


def _quantized(model: Opened, folder: Path, tp: int) -> list[Path]:
    make_scales(model.config, model.tensors, model.checkpoint, folder, scaling=Scaling(INT8))
    converted(model, folder / RESULT, folder / f"tp{tp}", tp)
    return [folder / f"tp{tp}" / "weights" / f"rank{rank}.safetensors" for rank in range(tp)]


def _measured(
    model: Opened,
    files: list[Path],
    kernels: Kernels | None = None,
    samples: Samples = SAMPLES,
    scheme: SchemeSide | None = None,
) -> Verdict:
    stored = StoredModel(model.config, model.tensors, model.checkpoint)
    return measure(stored, of_files(model.config, files, kernels or Kernels()), samples, scheme=scheme)


def _scheme(model: Opened, folder: Path, scaling: Scaling) -> SchemeSide:
    """The scheme whose scales are in `folder`."""
    merged, checkpoint = with_scales(model.tensors, model.checkpoint, folder / RESULT)
    return SchemeSide(StoredModel(model.config, merged, checkpoint), scaling, "float32")


def _verdict(increase: float, kl: float, blocks: int = 1, scatter: float = 0.0) -> Verdict:
    """Figures of that many blocks of ten tokens, which are off by `scatter` nats to either side in turn."""
    found = [
        TokenBlock(10, 10, 10 * kl, 10, 10 * math.log(10), 10 * math.log(10 * (1 + increase)) + 10 * scatter * sign)
        for sign in ([1, -1] * blocks)[:blocks]
    ]
    return Verdict((), "sha256:0", Evidence(tuple(found)), 0)


@pytest.mark.parametrize("case", TINY)
def test_int8_weights_lose_little(case: str, tiny_checkpoint: Folders, tmp_path: Path) -> None:
    model = opened(tiny_checkpoint(case))
    tp = 3 if case == "llama/three-kv-heads" else 4
    files = _quantized(model, tmp_path, tp)
    verdict = _measured(model, files, scheme=_scheme(model, tmp_path, Scaling(INT8)))
    assert [part.name for part in verdict.parts] == [
        f"layers.{layer}.{part}" for layer in range(model.config.layers) for part in ("attn", "mlp")
    ]
    assert all(0 < part.relative < 0.03 for part in verdict.parts)
    assert all(part.cosine > 0.999 for part in verdict.parts)
    assert all(part.distance is not None and part.distance < 0.05 for part in verdict.parts)
    assert verdict.tokens == 104
    assert verdict.evidence.kl >= 0
    judge(verdict, LOOSE)


def test_perplexity_is_that_of_the_logits(tiny_checkpoint: Folders, tmp_path: Path) -> None:
    model = opened(tiny_checkpoint("llama"))
    verdict = _measured(model, _quantized(model, tmp_path, 2))
    (weights,) = rank_weights(model.checkpoint.folder, 1)
    losses = []
    for ids in SAMPLES.ids:
        logits = forward(model.config, weights, torch.from_numpy(ids)[None])[0]
        losses.append(torch.nn.functional.cross_entropy(logits[:-1], torch.from_numpy(ids[1:]), reduction="none"))
    np.testing.assert_allclose(verdict.evidence.perplexity_float, math.exp(torch.cat(losses).mean()), rtol=1e-5)


@pytest.mark.parametrize("case", ["llama", "gptj", "mixtral", "baichuan/v1-13b", "gpt2", "gemma2", "granite", "bloom"])
def test_without_quantization_nothing_is_lost(case: str, tiny_checkpoint: Folders, tmp_path: Path) -> None:
    model = opened(tiny_checkpoint(case))
    for rank, tensors in enumerate(rank_weights(model.checkpoint.folder, 2)):
        save_file({name: t.contiguous() for name, t in tensors.items()}, tmp_path / f"{rank}")
    verdict = _measured(model, [tmp_path / "0", tmp_path / "1"])
    assert verdict.evidence.kl < 1e-7  # two orders of float32 sums
    assert verdict.evidence.top1_agreement == 1
    assert abs(verdict.evidence.increase) < 1e-5
    assert all(part.relative < 1e-5 for part in verdict.parts)


@pytest.mark.parametrize(
    ("scheme", "distance", "channel", "caught"),
    [
        ("int4-weight", 0.067, 0.93, True),  # the scale of one group is doubled
        ("int4-weight", 0.051, 0.59, True),  # the same with groups of 32
        ("awq", 0.010, 0.27, True),  # one group of 38 in one of 896 rows of a trained model
        ("int8-weight", 0.000, 0.000, False),
        ("fp8", 0.020, 0.040, False),
        ("fp8", 0.144, 0.268, True),  # a fixed input scale is halved
        ("smoothquant", 0.112, 0.15, False),  # inputs are divided by factors in bfloat16
        ("smoothquant", 0.224, 0.324, True),  # a zero point is off by one
    ],
)
def test_limits_lie_between_correct_and_damaged_files(
    scheme: str, distance: float, channel: float, *, caught: bool
) -> None:
    """Figures of `benchmarks.damage`."""
    part = PartError("layers.3.mlp", 0.01, 1.0, 0, 0.01, distance, channel, 5)
    assert bool(part_problems(part, SCHEMES[scheme].tolerance)) is caught


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
    verdict = _measured(model, files, scheme=_scheme(model, tmp_path, Scaling(INT8)))
    beyond = {
        error.name for error in verdict.parts if error.distance is None or error.distance > INT8.tolerance.distance
    }
    # A NaN spreads to what follows in the files' own stream, but not to the parts on the float model's.
    assert beyond == {part}
    with pytest.raises(NumericsError, match=f"`{part}`: .* times the scheme's own error away") as caught:
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
    fine = _verdict(0.01, 0.01, blocks=2)
    judge(fine, Tolerance(0.011, 0.0101, 0.9))
    with pytest.raises(NumericsError, match=r"perplexity 10 becomes 10.1 \(\+1.00%.*\), expected at most \+0.50%"):
        judge(fine, Tolerance(0.005, 0.0101, 0.9))
    with pytest.raises(NumericsError, match=r"KL divergence 0.01 \(.*\), expected at most 0.005"):
        judge(fine, Tolerance(0.011, 0.005, 0.9))
    broken = replace(fine, evidence=Evidence(blocks_of([float("nan")], [False], {"float": [], "files": []})))
    with pytest.raises(NumericsError, match="beyond its tolerance"):
        judge(broken, Tolerance(1e9, 1e9, 0))


def test_an_interval_narrows_with_the_tokens_until_it_decides() -> None:
    limits = Tolerance(perplexity=0.02, kl=1.0, stream=1.0)
    few, many = _verdict(0.01, 0.01, blocks=4, scatter=0.02), _verdict(0.01, 0.01, blocks=64, scatter=0.02)
    assert undecided(few, limits)
    assert not undecided(many, limits)
    low, high = many.evidence.increase_interval
    # 64 losses that are off by 0.02 to either side: 1.96 * 0.02 / sqrt(63)
    assert (low, high) == pytest.approx(
        (math.exp(math.log(1.01) - 0.00494) - 1, math.exp(math.log(1.01) + 0.00494) - 1), abs=1e-5
    )
    assert few.with_more(many).evidence.tokens == 680


def test_a_verdict_is_data(tiny_checkpoint: Folders, tmp_path: Path) -> None:
    model = opened(tiny_checkpoint("llama"))
    samples = read_samples(None, model.checkpoint.folder, vocab=VOCAB, count=2, length=64, own=HELD_OUT)
    calls: list[tuple[int, int]] = []
    stored = StoredModel(model.config, model.tensors, model.checkpoint)
    files = _quantized(model, tmp_path, 1)
    verdict = measure(stored, of_files(model.config, files, Kernels()), samples, lambda *call: calls.append(call))
    assert calls == [(128 * i, 384) for i in range(1, 4)]
    told = json.loads(json.dumps(verdict.to_json()))
    assert told["perplexity_increase"] == verdict.evidence.increase
    assert {"name", "relative", "cosine", "channel", "stream", "distance"} <= told["parts"][0].keys()
    assert told["text"] == samples.text
    assert Verdict.from_json(told) == verdict
