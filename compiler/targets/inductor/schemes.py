"""Quantization schemes of target `inductor`: each runs by a `Product` of its number format."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from compiler.errors import RefusedError
from compiler.quantization.formats import load
from compiler.quantization.schemes import FLOAT, HEADS, SCHEMES, UNQUANTIZED

if TYPE_CHECKING:
    from compiler.decoder.kernels import Kernels
    from compiler.model.config import ModelConfig
    from compiler.quantization.format import Product
    from compiler.quantization.request import Quant
    from compiler.quantization.scaling import Scaling
    from compiler.quantization.schemes import Scheme
    from compiler.targets.inductor.options import InductorOptions


GROUP_SIZES = (128, 64, 32, 16)
"""Sizes of groups that have a product. Native kernels take 128; torch computes others, see forms.py."""


def product_of(scheme: Scheme) -> Product | None:
    """Product of the linear layers of a scheme; None if its format has none."""
    if scheme.weights == FLOAT or scheme.activations not in (FLOAT, scheme.weights):
        return None
    found = load(scheme.weights).product(
        FLOAT if scheme.activations == FLOAT else scheme.activation_scales, scheme.group
    )
    return found if found is not None and found.group == scheme.group else None


def quantized(config: ModelConfig, quant: Quant, options: InductorOptions) -> tuple[Quant, InductorOptions]:
    """Set the options' `products`, `cache` and `head` from `quant`. Raises RefusedError."""
    if quant.cache and config.kv_rank:
        raise RefusedError(
            f"target `inductor` does not quantize the cache of latent attention; found `--kv-cache {quant.cache}`",
            hint="leave `--kv-cache` out: a latent takes a fraction of the keys and values of all heads",
        )
    head = product_of(HEADS[quant.head]) if quant.head else None
    scheme, options = quant.scheme, replace(options, cache=quant.cache, head=head.name if head else FLOAT)
    if scheme is None:
        return quant, options
    if quant.mixes:
        return quant, replace(options, products=tuple((_name(one), _name(two)) for one, two in scheme.parts) or FLOAT)
    product = product_of(scheme)
    if product is None:
        run = [f"`--quant {other.name}`" for other in SCHEMES.values() if product_of(other)]
        raise RefusedError(
            f"target `inductor` does not run `{scheme.name}`{_flags(scheme)}",
            hint=f"it runs {', '.join(run)}",
        )
    return quant, replace(options, products=product.name)


def _name(scheme: Scheme) -> str:
    """Product of a part of a layer."""
    product = product_of(scheme)
    return product.name if product else FLOAT


def scaling(_config: ModelConfig, quant: Quant, _options: InductorOptions) -> Scaling:
    """Scaling for kernels that do not divide their inputs: smoothing needs a preceding layer that does it."""
    from compiler.quantization.scaling import Scaling

    return Scaling(quant.scheme or UNQUANTIZED, cache=quant.cache, cache_scales="head", head=quant.head)


def kernels(options: InductorOptions) -> Kernels:
    """Definitions of the products and of the cache, in plain torch."""
    from compiler.decoder.attention import cache_dtype
    from compiler.decoder.kernels import PLAIN
    from compiler.decoder.quantized import definition, experts, weights_alone

    plain = replace(PLAIN, cached=cache_dtype(options.cache)) if options.cache else PLAIN
    if options.products == FLOAT:
        return plain
    linear = definition(options.products) if isinstance(options.products, str) else weights_alone
    return replace(plain, quantized=linear, quantized_experts=experts(linear))


def _flags(scheme: Scheme) -> str:
    if scheme.activations == FLOAT:
        return ""
    return f" with one activation scale per {scheme.activation_scales}"
