"""What every recipe gets without a line of its own: one runner over `recipes/` and `tests/tiny_configs.py`."""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import recipes
from compiler import targets
from compiler.errors import ParallelError
from compiler.model import lazy
from compiler.model.account import account
from compiler.model.config import ModelConfig
from compiler.model.ops import inverse, run
from compiler.model.parallel import check_parallel
from compiler.model.recipe import Recipe
from compiler.model.roles import TensorId
from compiler.storage.checkpoints.checkpoint import Checkpoint, open_checkpoint
from compiler.targets.trtllm.options import TrtllmOptions
from compiler.targets.vllm.options import VllmOptions
from tests.rows import refused, without_row
from tests.support_table import CONVERTING
from tests.tiny import TINY, model_config, recipe_of

PURE = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.For, ast.While, ast.If, ast.IfExp, ast.ClassDef,
        ast.ListComp, ast.DictComp, ast.SetComp, ast.GeneratorExp, ast.Try, ast.With)  # fmt: skip

OPTIONS = {"trtllm": TrtllmOptions(version="0.21.0"), "vllm": VllmOptions(weights="shards")}
"""The default version of a toolchain may lack an architecture."""

ROWS = {"neuron", "trtllm", "vllm"}
"""Targets that take the architectures which they have rows for; the others take all that roles can say."""


@pytest.mark.parametrize("name", recipes.available())
def test_a_recipe_is_declarative(name: str) -> None:
    path = Path(recipes.__file__).parent / f"{name}.py"
    tree = ast.parse(path.read_text())
    assert not [type(node).__name__ for node in ast.walk(tree) if isinstance(node, PURE)]
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert modules <= {"compiler.model", "recipes", "dataclasses"}
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Import)]
    assert len(path.read_text().splitlines()) <= 80


@pytest.mark.parametrize("name", recipes.available())
def test_a_recipe_has_a_tiny_case_that_splits_over_eight(name: str) -> None:
    cases = [case for case in TINY if recipe_of(case) == name]
    assert cases, f"add an entry for {name} to tests/tiny_configs.py"
    assert [case for case in cases if model_config(case).heads % 8 == 0]


def test_no_two_recipes_claim_one_architecture_or_one_name() -> None:
    values = [recipes.load(name) for name in recipes.available()]
    for claimed in ([a for r in values for a in r.hf_architectures], [m for r in values for m in r.models]):
        assert len(claimed) == len(set(claimed))


@pytest.mark.parametrize("tp", [1, 2, 4, 8])
@pytest.mark.parametrize("target", CONVERTING)
@pytest.mark.parametrize("case", TINY)
def test_every_bit_comes_back_from_the_rank_files(
    case: str, target: str, tp: int, tiny_checkpoint: Callable[[str], Path]
) -> None:
    """HF -> rank files -> HF, and forward again: so copies of a kv head agree and padding is zero."""
    checkpoint = open_checkpoint(tiny_checkpoint(case))
    _, recipe = recipes.for_config(checkpoint.config)
    recipe = recipe.resolve(checkpoint.config)
    _round_trip(checkpoint, recipe, recipe.model_config(checkpoint.config), target, tp)


@pytest.mark.parametrize("target", CONVERTING)
def test_an_architecture_without_a_row_is_taken_or_refused_by_its_name(
    target: str, tiny_checkpoint: Callable[[str], Path]
) -> None:
    """A recipe stands without a row in a target: the runner above asks for the refusal, and no more."""
    checkpoint = open_checkpoint(tiny_checkpoint("llama"))
    recipe = replace(recipes.load("llama"), hf_architectures=("UnheardOfForCausalLM",))
    config = replace(recipe.model_config(checkpoint.config), architecture="UnheardOfForCausalLM")
    chosen = targets.load(target)
    options = OPTIONS.get(target, chosen.options())
    assert without_row(chosen, replace(config, architecture="LlamaForCausalLM"), options) == ""
    assert without_row(chosen, config, options) == ("this target has no row for it" if target in ROWS else "")
    _round_trip(checkpoint, recipe, config, target, 2)


def _round_trip(checkpoint: Checkpoint, recipe: Recipe, config: ModelConfig, target: str, tp: int) -> None:
    if config.heads % tp or (config.kv_heads % tp and tp % config.kv_heads):  # a case that is there for its refusal
        with pytest.raises(ParallelError):
            check_parallel(config, tp)
        return
    source = _Bits(checkpoint)
    filled = account(recipe, config, checkpoint.tensors)
    chosen = targets.load(target)
    assert chosen.layout is not None
    options = OPTIONS.get(target, chosen.options())
    dtype = next(iter(checkpoint.tensors.values())).dtype
    reason = without_row(chosen, config, options)
    if reason:
        with refused(config, reason):
            chosen.layout.rank_plans(config, tp, filled.tensors, dtype, options)
        return
    files: dict[str, np.ndarray] = {}
    plans = chosen.layout.rank_plans(config, tp, filled.tensors, dtype, options)
    for plan in plans:
        files |= {f"{plan.file}:{name}": lazy.read(tensor, source) for name, tensor in plan.tensors}
    roles: dict[TensorId, lazy.Lazy] = {}
    for layout in chosen.layout.layouts(config, tp, options):
        names = [f"{plan.file}:{layout.name}" for plan in plans]
        roles |= layout.from_ranks([lazy.whole(n, files[n].shape, "BF16") for n in names])
    seen = set()
    for use in filled.uses:
        back = run(inverse(use.program), [roles[output] for output in use.outputs])
        for name, tensor in zip(use.sources, back, strict=True):
            bits = lazy.read(tensor, lambda key: files[key].ravel())
            np.testing.assert_array_equal(bits.ravel(), source(name), err_msg=name)
            seen.add(name)
    assert seen | set(filled.redundant) | set(filled.ignored) == set(checkpoint.tensors)
    for layout in chosen.layout.layouts(config, tp, options):
        again = layout.to_ranks(roles)
        for plan, tensor in zip(plans, again, strict=True):
            key = f"{plan.file}:{layout.name}"
            np.testing.assert_array_equal(lazy.read(tensor, lambda k: files[k].ravel()), files[key], err_msg=key)


class _Bits:
    """The tensors of a checkpoint as flat arrays of raw bits."""

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint

    def __call__(self, name: str) -> np.ndarray:
        tensor = self.checkpoint.tensors[name]
        assert tensor.file is not None
        count = tensor.nbytes // lazy.ITEMSIZE[tensor.dtype]
        return np.fromfile(tensor.file, f"u{lazy.ITEMSIZE[tensor.dtype]}", count, offset=tensor.offset)
