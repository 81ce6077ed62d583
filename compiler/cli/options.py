"""Options that several commands share, in groups (`cli/groups.py`), and the requests that they make."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias

import typer

from compiler import targets
from compiler.cli.target_options import OwnOptions, options_of
from compiler.quantization.proof_levels import CPU, PROOF_DEVICES, PROOFS
from compiler.quantization.schemes import AUTO, CACHES, HEADS, SCHEMES

if TYPE_CHECKING:
    from compiler.lmi.from_properties import LmiRequest
    from compiler.pipeline.request import PlanRequest, Resources
    from compiler.quantization.request import Quant, Text

    SchemeName: TypeAlias = str
    CacheName: TypeAlias = str
    HeadName: TypeAlias = str
    ProofName: TypeAlias = str
    DeviceName: TypeAlias = str
else:
    SchemeName, CacheName, HeadName, ProofName, DeviceName = (
        Literal[("none", *SCHEMES, AUTO.name)],
        Literal[tuple(CACHES)],
        Literal[tuple(HEADS)],
        Literal[tuple(PROOFS)],
        Literal[PROOF_DEVICES],
    )

DEFAULT_BATCH = 8
"""Rows per batch where `--max-batch` is not given."""

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
RequireSignature = Annotated[
    Path | None,
    typer.Option(
        "--require-signature", help="Refuse it unless a public key of this PEM file signed it.", metavar="KEY"
    ),
]
ArtifactArgument = Annotated[Path, typer.Argument(help="Folder of an artifact.", metavar="ARTIFACT")]


@dataclass(frozen=True)
class ModelOptions:
    """Source of the model, and the recipe that reads it."""

    panel: ClassVar[str] = "Model"

    model: Annotated[
        str | None, typer.Option("--model", help="Recipe name, Hugging Face id, folder or s3:// prefix.")
    ] = None
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hugging Face id.")] = None
    recipe: Annotated[str | None, typer.Option("--recipe", help="Recipe to read it with.")] = None
    variant: Annotated[
        str | None, typer.Option("--variant", help="Variant of the recipe, if config.json does not tell.")
    ] = None
    text_only: Annotated[bool, typer.Option("--text-only", help="Build the text part of a multimodal model.")] = False
    offline: Annotated[bool, typer.Option("--offline", help="Do not ask the hub, as with HF_HUB_OFFLINE=1.")] = False


@dataclass(frozen=True)
class AskOptions:
    """Parallelism, target and precision: together with model and quantization, they determine the artifact's bytes."""

    panel: ClassVar[str] = "Model"

    tp: Annotated[
        str | None,
        typer.Option(help="Ranks: a number, or `max` [default: 1]", metavar="N|max", rich_help_panel="Parallelism"),
    ] = None
    instance_type: Annotated[
        str | None, typer.Option(help="Instance type that must have room for it.", rich_help_panel="Parallelism")
    ] = None
    target: Annotated[
        str | None, typer.Option("--target", help="Toolchain [default: that of `--image`, else inductor]")
    ] = None
    dtype: Annotated[str | None, typer.Option(help="bfloat16, float16 or float32 [default: the checkpoint's]")] = None
    rope_scaling: Annotated[
        str | None, typer.Option(help="Context extension: linear:2, dynamic:2, yarn:4, llama3:8, or a JSON object.")
    ] = None


@dataclass(frozen=True)
class MemoryOptions:
    """Memory limit of a command; it does not change the artifact."""

    panel: ClassVar[str] = "Limits"

    max_memory: Annotated[str, typer.Option(help="Limit of the buffers of convert and judge.", metavar="SIZE")] = "1GiB"


@dataclass(frozen=True)
class QuantOptions:
    """Quantization of weights, activations and the KV cache."""

    panel: ClassVar[str] = "Quantization"

    quant: Annotated[
        SchemeName, typer.Option("--quant", help="Quantization scheme; `auto`: one for each part of a layer.")
    ] = "none"
    smoothquant_alpha: Annotated[
        str | None, typer.Option(help="Migration strength of SmoothQuant [default: 0.5]", metavar="0..1|auto")
    ] = None
    per_token: Annotated[
        bool | None, typer.Option("--per-token/--no-per-token", help="One activation scale per token [default: yes]")
    ] = None
    per_channel: Annotated[
        bool | None, typer.Option("--per-channel/--no-per-channel", help="One weight scale per row [default: yes]")
    ] = None
    group_size: Annotated[
        int | None, typer.Option(help="Weights that share a scale [default: widest that divides]", min=8)
    ] = None
    kv_cache: Annotated[CacheName | None, typer.Option(help="8-bit format of the KV cache.")] = None
    lm_head: Annotated[HeadName | None, typer.Option(help="8-bit format of the head's matrix.")] = None
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="Text, table (.jsonl, .csv ...) with `text` or `input_ids`, or a data set.", metavar="FILE|ID[:FILE]"
        ),
    ] = None
    from_properties: Annotated[
        Path | None, typer.Option(help="LMI's serving.properties, or a container's .env file, to build from.")
    ] = None
    calibration_samples: Annotated[int, typer.Option(help="Maximum number of samples.", min=1)] = 512
    calibration_length: Annotated[int, typer.Option(help="Tokens per sample.", min=8)] = 512


@dataclass(frozen=True)
class GateOptions:
    """Limits of the loss of quality through quantization."""

    panel: ClassVar[str] = "Quantization"

    max_perplexity_increase: Annotated[
        float | None, typer.Option(help="Relative limit, such as 0.01 [default: the scheme's]", min=0)
    ] = None
    proof: Annotated[ProofName, typer.Option(help="How much of the model the gate measures.")] = "standard"
    proof_device: Annotated[
        DeviceName, typer.Option(help="Device that calibrates and gates: cpu, or cuda for a GPU of this machine.")
    ] = CPU
    accept_numerics: Annotated[
        bool, typer.Option("--accept-numerics", help="Build although the gate refuses; the manifest records it.")
    ] = False


@dataclass(frozen=True)
class LimitOptions:
    """Sizes that an artifact is compiled for."""

    panel: ClassVar[str] = "Limits"

    max_positions: Annotated[
        int | None,
        typer.Option(
            "--max-positions",
            "--max-seq-len",
            "--sequence-length",
            help="Tokens per row [default: the model's maximum]",
        ),
    ] = None
    max_batch: Annotated[
        int | None,
        typer.Option("--max-batch", "--max-batch-size", "--batch", help="Rows per batch [default: the target's, or 8]"),
    ] = None


def model_fields(model: ModelOptions, target: str = targets.DEFAULT) -> dict[str, Any]:
    """Fields of a PlanRequest that name model, recipes and target. Raises UsageError without a model."""
    import recipes
    from compiler.errors import UsageError

    if not model.model:
        raise UsageError(
            "expected a model; found neither `--model` nor `option.model_id` in a serving.properties",
            hint="pass `--model` with a recipe's name, a Hugging Face id, a folder or an s3:// prefix",
        )
    return {
        "model": model.model,
        "recipes": recipes,
        "revision": model.revision,
        "recipe": model.recipe,
        "text_only": model.text_only,
        "offline": model.offline,
        "target": target,
    }


def quant_of(options: QuantOptions, gate: GateOptions, found: LmiRequest | None = None) -> Quant:
    """Quantization of the options, or of a serving.properties `found`. Raises UsageError if they contradict."""
    from compiler.quantization.request import ALPHA, Quant, alpha_of, group_of, scheme_of

    if found is not None:
        _refuse_quantization(options)
        return replace(
            found.quant,
            max_perplexity_increase=gate.max_perplexity_increase,
            accept=gate.accept_numerics,
            proof=gate.proof,
            device=gate.proof_device,
        )
    scheme = scheme_of(options.quant, per_token=options.per_token, per_channel=options.per_channel)
    alpha = options.smoothquant_alpha
    return Quant(
        scheme,
        ALPHA if alpha is None else alpha_of(alpha, scheme),
        options.kv_cache or "",
        text_of(options),
        gate.max_perplexity_increase,
        gate.accept_numerics,
        gate.proof,
        group_of(options.group_size, scheme),
        options.lm_head or "",
        gate.proof_device,
    )


def text_of(options: QuantOptions) -> Text:
    """Calibration text of the options."""
    from compiler.quantization.request import Text

    return Text(options.calibration, options.calibration_samples, options.calibration_length)


def _refuse_quantization(options: QuantOptions) -> None:
    """Raise UsageError if options ask for a quantization besides that of a serving.properties."""
    from compiler.errors import UsageError

    ours = ("quant", "smoothquant_alpha", "per_token", "per_channel", "group_size", "kv_cache", "lm_head")
    given = [name for name in ours if getattr(options, name) != getattr(QuantOptions(), name)]
    if given:
        raise UsageError(f"`--from-properties` already defines {', '.join(given)}", hint="leave these options out")


@dataclass(frozen=True)
class RequestOptions:
    """The groups of options that a serving.properties may fill."""

    model: ModelOptions
    ask: AskOptions
    own: OwnOptions
    limits: LimitOptions


def request_of(asked: RequestOptions, quant: Quant, resources: Resources) -> PlanRequest:
    """Request of the options. `--tp max` reads the model's config and headers. Raises UsageError."""
    from compiler.cli.parse import parse_tp
    from compiler.model.rope_option import parse_rope_scaling
    from compiler.pipeline.devices import with_largest_tp
    from compiler.pipeline.request import Ask, PlanRequest

    model, ask, limits = asked.model, asked.ask, asked.limits
    target, tp = ask.target or targets.DEFAULT, parse_tp(ask.tp or "1")
    options = options_of(target, asked.own).on_instance(ask.instance_type)
    wanted = Ask(
        tp=tp or 1,
        dtype=ask.dtype,
        max_positions=limits.max_positions,
        max_batch=options.default_batch or DEFAULT_BATCH if limits.max_batch is None else limits.max_batch,
        rope_scaling=parse_rope_scaling(ask.rope_scaling) if ask.rope_scaling else None,
        variant=model.variant,
        options=options,
        quant=quant,
    )
    request = PlanRequest(
        **model_fields(model, target), ask=wanted, resources=resources, instance_type=ask.instance_type
    )
    return request if tp else with_largest_tp(request, ask.instance_type)
