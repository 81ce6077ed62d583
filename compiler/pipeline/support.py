"""Support of quantizations by a target: one order of questions for plans, tables and lists."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, Any

from compiler.errors import RefusedError, UsageError
from compiler.model.config import LayerKind, ModelConfig
from compiler.model.places import Flag, paths
from compiler.quantization.request import Quant
from compiler.quantization.schemes import CACHES, SCHEMES, check_scheme, fitted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from compiler.model.limits import Limits
    from compiler.model.recipe import Recipe
    from compiler.quantization.scaling import Scaling
    from compiler.targets.options import TargetOptions
    from compiler.targets.protocols import Target

CHOICES = (
    Quant(),
    *(Quant(scheme) for scheme in SCHEMES.values()),
    *(Quant(cache=name) for name in CACHES),
)
"""The unquantized model, every scheme by itself, every quantized KV cache by itself."""


@dataclass(frozen=True)
class Taken:
    """`quant` has the flags that run, `options` name it as the toolchain does; `scaling` None: nothing is scaled."""

    quant: Quant
    options: TargetOptions
    scaling: Scaling | None


def taken(
    target: Target[Any], config: ModelConfig, quant: Quant, tp: int, options: TargetOptions, limits: Limits | None
) -> Taken:
    """Raises RefusedError, with the reason and what to do instead."""
    if not isinstance(options, target.options):
        raise UsageError(
            f"options of target `{target.name}` are {target.options.__name__}; found {options!r}",
            hint="leave them out, or choose their target",
        )
    scaling = None
    if quant.requested:
        sizes = (quant.group,) if quant.group else target.support.group_sizes
        if quant.group not in (None, *target.support.group_sizes):
            raise RefusedError(
                f"target `{target.name}` takes groups of {' or '.join(map(str, target.support.group_sizes))} weights; "
                f"found {quant.group}",
                hint="leave `--group-size` out",
            )
        if quant.head and quant.head not in target.options.heads:
            raise RefusedError(
                f"target `{target.name}` does not quantize the head; found `--lm-head {quant.head}`",
                hint="leave `--lm-head` out, or build with `--target inductor`",
            )
        if quant.scheme is not None:
            quant = replace(quant, scheme=fitted(quant.scheme, config, tp, sizes))
        quant, options = target.support.quantized(config, quant, options)
        scaling = target.support.scaling(config, quant, options)
        check_scheme(scaling.scheme, config, tp, sizes)
    target.support.check(config, tp, options, limits)
    return Taken(quant, options, scaling)


def refusals(recipe: Recipe, target: Target[Any]) -> dict[Quant, str]:
    """By CHOICES: "" where some model of the recipe is taken so at tp 1, else the reason why none is."""
    models = list(_models(recipe))
    return {quant: _refusal(models, target, quant) for quant in CHOICES}


def _refusal(models: list[ModelConfig], target: Target[Any], quant: Quant) -> str:
    reason = ""
    for config in models:
        try:
            taken(target, config, quant, 1, target.options(), None)
        except RefusedError as error:
            reason = reason or error.message
        else:
            return ""
    return reason


def _models(recipe: Recipe) -> Iterator[ModelConfig]:
    """As the recipe describes them, in sizes that any toolchain splits: what config.json may say or not, both ways."""
    hidden, heads, traits, latent = 4096, 32, recipe.traits, recipe.config.kv_rank != ()
    sparse = traits.mlp == "moe"
    named = traits.activations.get(traits.activation)
    answers = []
    for name in ("qkv_bias", "out_bias", "mlp_bias"):
        answer = getattr(traits, name)
        fixed = isinstance(answer, bool)
        usual = answer if fixed else recipe.defaults.get(paths(answer)[0], False)
        answers.append([usual] if fixed or usual is True else [False, True])
    # Where config.json says whether all heads share one kv head, both.
    kv = [1] if latent else [heads, 1] if isinstance(recipe.config.kv_heads, Flag) else [heads]
    for kv_heads, (qkv_bias, out_bias, mlp_bias) in product(kv, product(*answers)):
        yield ModelConfig(
            architecture=recipe.hf_architectures[0],
            layers=2,
            hidden=hidden,
            heads=heads,
            kv_heads=kv_heads,
            head_dim=hidden // heads,
            ffn=4 * hidden,
            vocab=32000,
            norm_eps=1e-5,
            max_positions=2048,
            dtype="bfloat16",
            norm=traits.norm,
            activation=named or ("gelu_tanh" if traits.mlp == "plain" else "silu"),
            position=traits.position,
            rotary=traits.rotary,
            rotary_dim=hidden // heads if traits.position == "rope" else 0,
            norms=traits.norms,
            norm_bias=traits.norm_bias is True,
            parallel_residual=traits.parallel_residual is True,
            parallel_mlp_norm=traits.parallel_mlp_norm,
            qk_norm=traits.qk_norm is True,
            qk_norm_over=traits.qk_norm_over,
            qkv_bias=qkv_bias,
            out_bias=out_bias,
            mlp_bias=mlp_bias,
            head=traits.head,
            head_bias=traits.head_bias,
            experts=8 if sparse else 0,
            experts_per_token=2 if sparse else 0,
            moe_ffn=hidden if sparse else 0,
            shared_ffn=hidden if traits.shared_expert_gate else 0,
            shared_expert_gate=traits.shared_expert_gate,
            router=traits.router,
            router_bias=traits.router_bias,
            expert_bias=traits.expert_bias,
            sinks=traits.sinks,
            kv_rank=hidden // heads if latent else 0,
            nope_dim=hidden // heads if latent else 0,
            layer_kinds=(LayerKind(traits.mlp),) * 2,
        )
