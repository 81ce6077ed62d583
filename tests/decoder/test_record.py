from __future__ import annotations

import torch
from torch.nn import functional as F

from compiler.decoder.mlp import gated
from compiler.decoder.record import Recorder
from compiler.decoder.wide import product

GENERATOR = torch.Generator().manual_seed(0)


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=GENERATOR)


def test_maxima_are_those_of_all_calls() -> None:
    weight, bias = _random(6, 8).bfloat16(), _random(6)
    recorder = Recorder({"w.weight": weight, "b": bias})
    calls = [_random(2, 5, 8), _random(1, 3, 8)]
    for x in calls:
        y = recorder.kernels.linear(x, weight, bias)
        torch.testing.assert_close(y, F.linear(x, weight.float(), bias))
    flat = torch.cat([x.flatten(0, 1) for x in calls])
    assert torch.equal(recorder.inputs["w.weight"], flat.abs().amax(0))
    torch.testing.assert_close(recorder.sums["w.weight"].float(), flat.abs().sum(0))
    torch.testing.assert_close(recorder.squares["w.weight"].float(), flat.square().sum(0))
    torch.testing.assert_close(recorder.outputs["w.weight"], F.linear(flat, weight.float(), bias).abs().amax(0))


def test_an_expert_sees_the_tokens_that_chose_it() -> None:
    gate_up, down = _random(3, 10, 4), _random(3, 4, 5)
    recorder = Recorder({"gate_up.weight": gate_up, "down.weight": down})
    x, chosen = _random(4, 4), torch.tensor([[0, 2], [0, 2], [2, 0], [0, 2]])
    share = torch.full((4, 2), 0.5)
    biases = _random(3, 10), _random(3, 4)
    out = recorder.kernels.experts(x, chosen, share, gate_up, down, "silu", biases)
    inner = {e: gated(F.linear(x, gate_up[e], biases[0][e]), "silu") for e in (0, 2)}
    torch.testing.assert_close(out, sum(F.linear(inner[e], down[e], biases[1][e]) / 2 for e in (0, 2)))
    found = recorder.inputs["down.weight"]
    torch.testing.assert_close(found[[0, 2]], torch.stack([inner[0].abs().amax(0), inner[2].abs().amax(0)]))
    assert not found[1].any()
    torch.testing.assert_close(
        recorder.sums["down.weight"].float(),
        torch.stack([inner[0].abs().sum(0), torch.zeros(5), inner[2].abs().sum(0)]),
    )
    assert recorder.outputs["gate_up.weight"].shape == (3, 10)


def test_blocks_of_rows_are_the_whole_product() -> None:
    x, weight, bias = _random(3, 1 << 12), _random(1500, 1 << 12).half(), _random(1500)
    torch.testing.assert_close(product(x, weight, bias), F.linear(x, weight.float(), bias), rtol=1e-4, atol=1e-3)
