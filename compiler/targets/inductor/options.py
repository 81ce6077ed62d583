"""Options of target `inductor`, all derived: a model is split by tp alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

from compiler.decoder.products import Products
from compiler.quantization.schemes import HEADS
from compiler.targets.options import TargetOptions

if TYPE_CHECKING:
    from compiler.runtime.section import Segments


@dataclass(frozen=True)
class InductorOptions(TargetOptions):
    """Options of target `inductor`. `products`: of linear layers (`compiler.decoder.products`); `head`: of the head;
    `cache`: format of the KV cache, "" for the dtype of the model (`compiler.decoder.attention`).
    """

    heads: ClassVar[tuple[str, ...]] = tuple(HEADS)

    products: Products = "float"
    cache: str = ""
    head: str = "float"

    @classmethod
    def of(cls, made: Segments) -> Self:
        """Options that compile these segments."""
        return cls(made.products, made.cache, made.head)


OPTIONS = InductorOptions
PLAIN = InductorOptions()
