"""Published models whose config comes along: enough to plan with, where the hub is not asked."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compiler.model.dtypes import DTYPES
from compiler.model.stored import stored_shapes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compiler.model.recipe import Recipe


@dataclass(frozen=True)
class PublishedModel:
    """`model`: its id on the hub; `date` (year-month) of its revision; `found`: where the config was found, "" for one
    that was written without the published file at hand; `stored`: dtype of the weights where config.json names none.
    """

    model: str
    date: str
    found: str
    config: Mapping[str, Any]
    stored: str = "float32"

    def headers(self, recipe: Recipe, variant: str | None = None) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Dtype and shape of each tensor by name, as the recipe's maps have them; of a quantized model, dequantized.

        Raises AccountingError, RefusedError.
        """
        resolved = recipe.resolve(self.config, variant)
        config = resolved.model_config(self.config, None, self.stored)
        dtype = DTYPES[config.dtype]
        return {name: (dtype, shape) for name, shape in stored_shapes(resolved, config).items()}
