"""Products of a model's linear layers, by the names of `Product` or FLOAT: one for all layers, or one for each part.

Names alone: this imports nothing heavy.
"""

from __future__ import annotations

from compiler.quantization.schemes import FLOAT, PARTS, part_of

Products = str | tuple[tuple[str, str], ...]
"""Product of all linear layers; or those of attention and of the mlp of every layer, where they have their own."""


def product_at(products: Products, layer: int, role: str) -> str:
    """Product of the linear layer `role` of a layer."""
    return products if isinstance(products, str) else products[layer][PARTS.index(part_of(role))]


def different(products: Products) -> list[str]:
    """Products with quantized weights, each once."""
    names = [products] if isinstance(products, str) else [name for layer in products for name in layer]
    return sorted(set(names) - {FLOAT})
