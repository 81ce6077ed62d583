"""Which quantisations run here, and as what products of `compiler.decoder.quantized`."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, cast

from compiler.errors import RefusedError

if TYPE_CHECKING:
    from compiler.decoder.kernels import Kernels
    from compiler.decoder.rankfile.quantized import Products
    from compiler.decoder.segments import CacheFormat
    from compiler.model.config import ModelConfig
    from compiler.quantization.request import Quant
    from compiler.quantization.scaling import Scaling
    from compiler.quantization.schemes import Format, Per, Scheme
    from compiler.targets.inductor.options import InductorOptions

RUNS: dict[tuple[Format, Format, Per], Products] = {
    # weights, activations, scales of the activations
    ("int8", "float", "tensor"): "weight_only",
    ("int8", "int8", "token"): "per_token",
    ("int8", "int8", "tensor"): "per_tensor",
    ("int4", "float", "tensor"): "grouped",
    ("fp8", "fp8", "token"): "fp8_per_token",
    ("fp8", "fp8", "tensor"): "fp8_per_tensor",
}


def quantised(_config: ModelConfig, quant: Quant, options: InductorOptions) -> tuple[Quant, InductorOptions]:
    """`products` and `cache` of the options from scheme and cache of `quant`. Raises RefusedError."""
    scheme, options = quant.scheme, replace(options, cache=quant.cache)
    if scheme is None:
        return quant, options
    products = RUNS.get((scheme.weights, scheme.activations, scheme.activation_scales))
    if products is None:
        raise RefusedError(
            f"target `inductor` does not run `{scheme.name}`{_flags(scheme)}",
            hint="it runs `--quant int8-weight`, `int4-weight`, `awq`, `smoothquant` and `fp8`",
        )
    return quant, replace(options, products=products)


def scaling(_config: ModelConfig, quant: Quant, _options: InductorOptions) -> Scaling:
    """Kernels see inputs as they are: what nothing in front can take is not smoothed."""
    from compiler.quantization.scaling import Scaling
    from compiler.quantization.schemes import UNQUANTISED

    return Scaling(quant.scheme or UNQUANTISED, cache=quant.cache, cache_scales="head")


def products_of(options: InductorOptions) -> Products:
    """Of segments with these options."""
    return cast("Products", options.products)


def cache_of(options: InductorOptions) -> CacheFormat:
    """Of segments with these options."""
    return cast("CacheFormat", options.cache)


def kernels(options: InductorOptions) -> Kernels:
    """The products and the cache as they are defined, in plain torch."""
    from compiler.decoder.attention import CACHED
    from compiler.decoder.kernels import PLAIN
    from compiler.decoder.quantized import DEFINITIONS, experts

    plain = replace(PLAIN, cached=CACHED[options.cache]) if options.cache else PLAIN
    if options.products == "float":
        return plain
    linear = DEFINITIONS[options.products]
    return replace(plain, quantised=linear, quantised_experts=experts(linear))


def _flags(scheme: Scheme) -> str:
    if scheme.activations == "float":
        return ""
    return f" with one activation scale a {scheme.activation_scales}"
