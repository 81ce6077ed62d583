"""Every case as a test, and the harness itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch

from tests.cases import checkpoints
from tests.cases.case import Case, load_cases
from tests.cases.checkpoints import ABSENT, difference, write
from tests.cases.runs import plan, refused, taken

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Tiny tensors are computed on one thread: more threads only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("one", load_cases(), ids=lambda one: one.name)
def test_the_input_has_the_right_outcome(one: Case, tmp_path: Path) -> None:
    one.check(tmp_path)


def test_the_tiny_checkpoint_computes_what_transformers_computes(tmp_path: Path) -> None:
    assert difference(write(tmp_path / "model"), tokens=200, rows=2) < 2e-6


def test_a_difference_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "model")
    other = write(tmp_path / "other", {"rope_theta": 500.0})
    expected = checkpoints.transformers_logits
    monkeypatch.setattr(checkpoints, "transformers_logits", lambda _folder, ids: expected(other, ids))
    assert difference(folder) > 1e-2


def test_absent_removes_a_key_and_a_tensor(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", {"vocab_size": ABSENT})
    refused(plan(folder), 4, "config.json lacks vocab_size (32000 is assumed)")
    taken(plan(write(tmp_path / "whole")), "LlamaForCausalLM")
    refused(plan(write(tmp_path / "part", tensors={"model.norm.weight": ABSENT})), 4, "final.norm.weight")
