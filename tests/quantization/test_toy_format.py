"""A format and a scheme that this project lacks, registered by one file and one value, built as any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from compiler.pipeline.build import build
from compiler.pipeline.request import BuildRequest
from compiler.quantization import formats
from compiler.quantization.request import Quant, scheme_of
from compiler.quantization.schemes import SCHEMES, Scheme, Tolerance
from tests.pipeline.conftest import quantized, request_for
from tests.stand_in import StandIn

__all__ = ["quantized", "request_for"]

LOOSE = Tolerance(perplexity=10, kl=10, stream=10)
"""Models of the tests are not trained: only directions of layers say something."""


@pytest.fixture(autouse=True)
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(formats, "__path__", [*formats.__path__, str(Path(__file__).parent / "more_formats")])
    monkeypatch.setitem(SCHEMES, "int6", Scheme("int6", "int6", "channel", "float", "tensor", "", LOOSE))


def test_it_is_among_the_formats() -> None:
    assert "int6" in formats.available()
    assert formats.load("int6").bits == 6
    assert formats.products()["int6_weight_only"][0] is formats.load("int6")


@pytest.mark.parametrize("case", ["llama", "mixtral"])
def test_it_is_converted_gated_and_run_in_plain_torch(
    case: str, quantized: Callable[..., BuildRequest], tmp_path: Path
) -> None:
    made = build(quantized(Quant(scheme_of("int6")), case), toolchain=StandIn()).manifest
    assert made is not None
    found = made.quantisation
    assert found is not None
    assert (found.scheme, found.weights) == ("int6", "int6")
    # Between what 8 and 4 bits lose.
    assert 0.99 < found.gate.cosine < 0.99999
    assert found.gate.kl > 0
    tensors = load_file(tmp_path / "artifact" / "weights" / "rank0.safetensors")
    rounded = {name: tensor for name, tensor in tensors.items() if tensor.dtype == torch.int8}
    assert {name.split(".", 2)[2] for name in rounded} >= {"attn.qkv.weight", "attn.o.weight"}
    assert all(int(tensor.abs().max()) <= 31 for tensor in rounded.values())
    # Rows of this matrix are whole on a rank: each has its largest magnitude at 31.
    assert (rounded["layers.0.attn.qkv.weight"].abs().amax(1) == 31).all()
