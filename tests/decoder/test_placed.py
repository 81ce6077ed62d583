"""Layers whose weights are on a GPU, with x on the CPU: by torch's fake tensors, which have a device and no values, and
refuse operations on two devices as a GPU does. With a GPU, the values too.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode

from compiler.decoder.forward import layer_weights
from compiler.decoder.kernels import PLAIN, Kernels, wide
from compiler.decoder.layer import layer as run_layer
from compiler.decoder.moments import Moments
from compiler.decoder.quantized import QuantizedWeight, grouped, rounded_inputs, weight_only
from compiler.decoder.ranks import RanksInProcess, logits, placed
from compiler.decoder.record import Recorder
from compiler.model.config import ModelConfig
from compiler.numerics.gate.simulation import Input
from compiler.quantization.formats import load
from tests.tiny import TINY, model_config
from tests.weights import rank_weights

if TYPE_CHECKING:
    from compiler.quantization.format import ActivationUse

CUDA, FAKE = "cuda:0", "lazy:0"
"""A GPU; and a device that fake tensors index without a build of torch for it, which they do not do for cuda."""
ROWS, TOKENS = 2, 9
INT8 = cast("ActivationUse", load("int8").activations)
FAMILIES = sorted(case for case in TINY if "/" not in case)
DENSE = [case for case in FAMILIES if all(kind.mlp != "moe" for kind in model_config(case).layer_kinds)]
"""Models that choose no experts by values, which fake tensors have none of."""
Checkpoints = Callable[[str], Path]


def _through(
    config: ModelConfig, weights: Mapping[str, Tensor], kernels: Callable[[Mapping[str, Tensor]], Kernels]
) -> Tensor:
    """Logits of x on the CPU through every layer and the head, on the device of the weights."""
    x = torch.linspace(-1, 1, ROWS * TOKENS * config.hidden).reshape(ROWS, TOKENS, config.hidden)
    for index, kind in enumerate(config.layer_kinds):
        own = layer_weights(weights, index)
        blocks = RanksInProcess(config, kind, [own], kernels(own))
        x = run_layer(config, blocks, x)
        assert x.device.type == "cpu"
        assert {cache.device.type for cache in blocks.caches[0].values()} == {next(iter(own.values())).device.type}
    return logits(config, [weights], x, wide(PLAIN))


@pytest.mark.parametrize("case", DENSE)
def test_a_layer_computes_where_its_weights_are(case: str, tiny_checkpoint: Checkpoints) -> None:
    config, (weights,) = model_config(case), rank_weights(tiny_checkpoint(case), 1)
    kernels = [lambda _: wide(PLAIN)]
    if case == "llama":
        kernels += [lambda own: Recorder(own).kernels, lambda own: Moments(own).kernels]
    for each in kernels:
        with FakeTensorMode() as mode:
            there = placed({name: mode.from_tensor(tensor) for name, tensor in weights.items()}, FAKE)
            assert _through(config, there, each).device.type == "cpu"


@pytest.mark.parametrize(
    "linear",
    [weight_only, grouped, partial(rounded_inputs, INT8)],
    ids=["int8", "int4 groups", "int8 activations"],
)
def test_quantized_products_compute_where_their_weights_are(linear: Callable[..., Tensor]) -> None:
    with FakeTensorMode(), torch.device(FAKE):
        packed = linear is grouped
        values = torch.zeros(32, 32, dtype=torch.uint8) if packed else torch.zeros(32, 64, dtype=torch.int8)
        weight = QuantizedWeight(values, torch.ones(32, 2) if packed else torch.ones(32))
        assert linear(torch.ones(5, 64), weight, torch.ones(32)).device.type == "lazy"


@pytest.mark.parametrize("shards", [1, 2])
def test_inputs_are_rounded_where_the_weights_are(shards: int) -> None:
    own = Input(torch.ones(64), INT8, None, shards)
    with FakeTensorMode(allow_non_fake_inputs=True):
        there = replace(own, columns=torch.ones(64)).placed(FAKE)
        assert there(torch.ones(5, 64, device=FAKE)).device.type == "lazy"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("case", FAMILIES)
def test_values_of_a_gpu(case: str, tiny_checkpoint: Checkpoints) -> None:
    config, (weights,) = model_config(case), rank_weights(tiny_checkpoint(case), 1)
    expected = _through(config, weights, lambda _: wide(PLAIN))
    found = _through(config, placed(weights, CUDA), lambda _: wide(PLAIN))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)
