"""Options that several commands share.

A group is a frozen dataclass whose fields are options. A command under `@grouped` takes it as one parameter; on the
command line each field is an option of its own:

    @grouped
    def plan(model: ModelOptions, ask: AskOptions, as_json: Json = False) -> None: ...
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, TypeAlias, TypeVar, get_type_hints

import typer

from compiler import targets
from compiler.quantization.schemes import CACHES, SCHEMES

if TYPE_CHECKING:
    from compiler.pipeline.request import PlanRequest, Resources
    from compiler.quantization.request import Quant, Text
    from compiler.targets.options import TargetOptions

    SchemeName: TypeAlias = str
    CacheName: TypeAlias = str
else:
    SchemeName, CacheName = Literal[("none", *SCHEMES)], Literal[tuple(CACHES)]

DEFAULT_BATCH = 8
"""Rows per batch where `--max-batch` is not given."""

Command = TypeVar("Command", bound=Callable[..., None])

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

    model: Annotated[str, typer.Option("--model", help="Recipe name, Hugging Face id, folder or s3:// prefix.")]
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a Hugging Face id.")] = None
    recipe: Annotated[str | None, typer.Option("--recipe", help="Recipe to read it with.")] = None
    variant: Annotated[
        str | None, typer.Option("--variant", help="Variant of the recipe, if config.json does not tell.")
    ] = None
    text_only: Annotated[bool, typer.Option("--text-only", help="Build the text part of a multimodal model.")] = False


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
    target: Annotated[str, typer.Option("--target", help="Toolchain.")] = targets.DEFAULT
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

    quant: Annotated[SchemeName, typer.Option("--quant", help="Quantization scheme.")] = "none"
    smoothquant_alpha: Annotated[
        str | None, typer.Option(help="Migration strength of SmoothQuant [default: 0.5]", metavar="0..1|auto")
    ] = None
    per_token: Annotated[
        bool | None, typer.Option("--per-token/--no-per-token", help="One activation scale per token [default: yes]")
    ] = None
    per_channel: Annotated[
        bool | None, typer.Option("--per-channel/--no-per-channel", help="One weight scale per row [default: yes]")
    ] = None
    kv_cache: Annotated[CacheName | None, typer.Option(help="8-bit format of the KV cache.")] = None
    calibration: Annotated[
        Path | None,
        typer.Option(
            help="Text, table (.jsonl, .csv ...) with `text` or `input_ids`, or a data set.", metavar="FILE|ID[:FILE]"
        ),
    ] = None
    from_properties: Annotated[
        Path | None, typer.Option(help="LMI's serving.properties to build from; `--image` names the release.")
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
    accept_numerics: Annotated[
        bool, typer.Option("--accept-numerics", help="Build although the gate refuses; the manifest records it.")
    ] = False


@dataclass(frozen=True)
class LimitOptions:
    """Sizes that an artifact is compiled for."""

    panel: ClassVar[str] = "Limits"

    max_positions: Annotated[
        int | None,
        typer.Option("--max-positions", "--max-seq-len", help="Tokens per row [default: the model's maximum]"),
    ] = None
    max_batch: Annotated[
        int | None, typer.Option("--max-batch", "--max-batch-size", help="Rows per batch [default: 8]")
    ] = None


def _own_options() -> dict[str, tuple[Any, Any]]:
    """Type and default of each option of the targets, by name. The default is None, so that an option that was given
    for another target can be refused.
    """
    found: dict[str, tuple[Any, Any]] = {}
    for target in targets.available():
        kind = targets.options_of(target)
        hints = get_type_hints(kind)
        for field in fields(kind):
            name = option_name(field)
            if name is None or name in found:
                continue
            info = typer.Option(
                *field.metadata["flags"],
                help=field.metadata["help"],
                metavar=field.metadata["metavar"],
                rich_help_panel=f"Target {target}",
            )
            found[name] = (Annotated[hints[field.name] | None, info], None)
    return found


def option_name(field: Field[Any]) -> str | None:
    """Parameter name of a field of a target's options; None for a derived field."""
    if "help" not in field.metadata:
        return None
    flags = field.metadata["flags"]
    return str(flags[0]).lstrip("-").replace("-", "_") if flags else field.name


if TYPE_CHECKING:

    @dataclass(frozen=True)
    class OwnOptions:
        """Options of all targets, gathered from their `TargetOptions`; None if not given."""
else:
    OwnOptions = make_dataclass(
        "OwnOptions", [(name, kind, default) for name, (kind, default) in _own_options().items()], frozen=True
    )


def options_of(target: str, own: OwnOptions) -> TargetOptions:
    """Options of `target`, from those given. Raises UsageError for an option that only other targets have."""
    from compiler.errors import UsageError

    given = {field.name: value for field in fields(own) if (value := getattr(own, field.name)) is not None}
    kind = targets.options_of(target)
    names = {name: field.name for field in fields(kind) if (name := option_name(field)) is not None}
    for name in given.keys() - names.keys():
        owners = [each for each in targets.available() if name in map(option_name, fields(targets.options_of(each)))]
        raise UsageError(
            f"`--{name.replace('_', '-')}` is an option of target `{owners[0]}`; found `--target {target}`",
            hint=f"leave it out, or build with `--target {owners[0]}`",
        )
    return kind(**{names[name]: value for name, value in given.items()})


def image_of(own: OwnOptions) -> str:
    """Container image of `--image`, or ""."""
    return getattr(own, "image", None) or ""


def grouped(command: Command) -> Command:
    """Command for typer, with each parameter that is a group replaced by one option for each of its fields.

    Raises TypeError if two options have the same name.
    """
    hints = get_type_hints(command, include_extras=True)
    groups: dict[str, type[Any]] = {}
    parameters: dict[str, inspect.Parameter] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if is_dataclass(kind) and isinstance(kind, type):
            groups[name] = kind
            found = _parameters(kind)
        else:
            found = [parameter.replace(annotation=hints[name], kind=inspect.Parameter.KEYWORD_ONLY)]
        for one in found:
            if one.name in parameters:
                raise TypeError(f"`{command.__name__}` has two options called `{one.name}`")
            parameters[one.name] = one

    @functools.wraps(command)
    def run(**values: Any) -> None:
        whole = {
            name: kind(**{field.name: values.pop(field.name) for field in fields(kind)})
            for name, kind in groups.items()
        }
        command(**whole, **values)

    # required options first, as `inspect.Signature` demands
    ordered = sorted(parameters.values(), key=lambda one: one.default is not inspect.Parameter.empty)
    run.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]  # inspect reads it, functions lack it
    run.__annotations__ = {one.name: one.annotation for one in ordered}
    return run  # type: ignore[return-value]  # typer calls it with keywords


@functools.cache
def _parameters(kind: type[Any]) -> list[inspect.Parameter]:
    """One parameter for each option of a group; its help is under the group's `panel` unless it names another."""
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        (info,) = hints[field.name].__metadata__
        info.rich_help_panel = info.rich_help_panel or getattr(kind, "panel", None)
    return [
        inspect.Parameter(
            field.name,
            inspect.Parameter.KEYWORD_ONLY,
            default=inspect.Parameter.empty if field.default is MISSING else field.default,
            annotation=hints[field.name],
        )
        for field in fields(kind)
    ]


def model_fields(model: ModelOptions, target: str = targets.DEFAULT) -> dict[str, Any]:
    """Fields of a PlanRequest that name model, recipes and target."""
    import recipes

    return {
        "model": model.model,
        "recipes": recipes,
        "revision": model.revision,
        "recipe": model.recipe,
        "text_only": model.text_only,
        "target": target,
    }


def quant_of(options: QuantOptions, gate: GateOptions, image: str) -> Quant:
    """Quantization of the options. Raises UsageError if they contradict each other."""
    from compiler.quantization.request import ALPHA, Quant, Text, alpha_of, scheme_of

    text = Text(options.calibration, options.calibration_samples, options.calibration_length)
    if options.from_properties is not None:
        return replace(
            _from_properties(options, image, text),
            max_perplexity_increase=gate.max_perplexity_increase,
            accept=gate.accept_numerics,
        )
    scheme = scheme_of(options.quant, per_token=options.per_token, per_channel=options.per_channel)
    alpha = options.smoothquant_alpha
    return Quant(
        scheme,
        ALPHA if alpha is None else alpha_of(alpha, scheme),
        options.kv_cache or "",
        text,
        gate.max_perplexity_increase,
        gate.accept_numerics,
    )


def _from_properties(options: QuantOptions, image: str, text: Text) -> Quant:
    """Quantization of `--from-properties`. Raises UsageError, RefusedError."""
    from compiler.errors import UsageError
    from compiler.lmi.from_properties import request_of_properties

    assert options.from_properties is not None
    ours = ("quant", "smoothquant_alpha", "per_token", "per_channel", "kv_cache")
    given = [name for name in ours if getattr(options, name) != getattr(QuantOptions(), name)]
    if given:
        raise UsageError(f"`--from-properties` already defines {', '.join(given)}", hint="leave these options out")
    return request_of_properties(options.from_properties, image, text).quant


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
    from compiler.model.rope import parse_rope_scaling
    from compiler.pipeline.devices import with_largest_tp
    from compiler.pipeline.request import Ask, PlanRequest

    model, ask, limits = asked.model, asked.ask, asked.limits
    tp = parse_tp(ask.tp or "1")
    wanted = Ask(
        tp=tp or 1,
        dtype=ask.dtype,
        max_positions=limits.max_positions,
        max_batch=DEFAULT_BATCH if limits.max_batch is None else limits.max_batch,
        rope_scaling=parse_rope_scaling(ask.rope_scaling) if ask.rope_scaling else None,
        variant=model.variant,
        options=options_of(ask.target, asked.own),
        quant=quant,
    )
    request = PlanRequest(
        **model_fields(model, ask.target), ask=wanted, resources=resources, instance_type=ask.instance_type
    )
    return request if tp else with_largest_tp(request, ask.instance_type)
