"""Names and shapes of the tensors of a checkpoint, from its config alone: the inverse of `model/account.py`.

Several Maps of a recipe may fill one role; the first one counts, which is the form that is published.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.errors import AccountingError
from compiler.model.lazy import Lazy
from compiler.model.ops import inverse, run
from compiler.model.programs import to_roles
from compiler.model.roles import TensorId, axis_sizes, model_tensors, shape_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from compiler.model.config import ModelConfig
    from compiler.model.recipe import Map, Recipe


def stored_shapes(recipe: Recipe, config: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Shape of each tensor that a checkpoint of `config` stores, by its name; buffers and copies are left out.

    Raises AccountingError where the recipe has no name for a tensor of the model.
    """
    sizes, left = axis_sizes(config), dict.fromkeys(model_tensors(config))
    found: dict[str, tuple[int, ...]] = {}
    known: dict[tuple[int, str], list[tuple[int, ...]]] = {}
    for tensor in list(left):
        if tensor not in left:
            continue
        index, mapping = _first(recipe, tensor, left)
        outputs = [TensorId(role, tensor.part, tensor.layer) for role in mapping.role_names]
        if (index, tensor.part) not in known:
            whole = [Lazy(shape_of(output, sizes), "F32", "F32", ()) for output in outputs]
            known[index, tensor.part] = [
                one.shape for one in run(inverse(to_roles(mapping, tensor.part, config)), whole)
            ]
        shapes = known[index, tensor.part]
        found |= zip(_names(mapping, tensor, len(shapes)), shapes, strict=True)
        for output in outputs:
            del left[output]
    return found


def _first(recipe: Recipe, tensor: TensorId, left: dict[TensorId, None]) -> tuple[int, Map]:
    """The first Map that fills a tensor, and others only that are not filled yet, with its place in the recipe."""
    for index, mapping in enumerate(recipe.weights):
        outputs = {TensorId(role, tensor.part, tensor.layer) for role in mapping.role_names}
        if tensor in outputs and outputs <= left.keys():
            return index, mapping
    raise AccountingError(
        f"{recipe.hf_architectures[0]}: expected a name for `{tensor}` in the recipe, found none",
        hint="pass a folder with the checkpoint as `--model`",
    )


def _names(mapping: Map, tensor: TensorId, count: int) -> Iterator[str]:
    """Names of the tensors of one Map: one, or one for each expert or head."""
    stem = mapping.source.replace("{layer}", str(tensor.layer))
    bias = tensor.part == "bias"
    end = ("_bias" if bias else "") if mapping.stacked or mapping.bare else f".{tensor.part}"
    for number in range(count):
        yield stem.replace("{expert}", str(number)).replace("{head}", str(number)) + end
