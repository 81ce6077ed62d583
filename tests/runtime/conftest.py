"""Models of tiny checkpoints on eager segments in float32."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from compiler.runtime.ends import end_ids
from compiler.runtime.generate import Model
from compiler.tokenizer.load import load_tokenizer
from tests.runtime.eager import LIMITS, engine
from tests.tiny import VOCAB


@pytest.fixture(scope="module")
def open_model(tiny_checkpoint: Callable[[str], Path]) -> Iterator[Callable[[str], Model]]:
    """`open_model(case)`: the model of a tiny checkpoint on one rank, made once."""
    models: dict[str, Model] = {}

    def opened(case: str) -> Model:
        if case not in models:
            folder = tiny_checkpoint(case)
            models[case] = Model(engine(folder), LIMITS, VOCAB, load_tokenizer(folder), end_ids(folder))
        return models[case]

    yield opened
    for model in models.values():
        model.close()


@pytest.fixture
def model(open_model: Callable[[str], Model]) -> Model:
    return open_model("llama")
