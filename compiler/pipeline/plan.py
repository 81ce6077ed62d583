"""The plan: everything that can be known from config.json and the safetensors headers alone. Reads no weight.

config.json --recipe--> ModelConfig --+
headers     --recipe--> roles --------+--> what each rank holds, what each stage needs, or a refusal with the remedy
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from math import prod
from typing import Any

from compiler.calibration.feedback import moments_bytes
from compiler.errors import AccountingError, RefusedError
from compiler.model.account import Account, account
from compiler.model.config import ModelConfig
from compiler.model.dtypes import DTYPES
from compiler.model.header import Header
from compiler.model.identity import identity
from compiler.model.layout import Layout
from compiler.model.lazy import ITEMSIZE, RankPlan
from compiler.model.limits import Limits, built_for
from compiler.model.notes import assumed_text, config_notes
from compiler.model.parallel import HeadLayout, cache_bytes
from compiler.model.published import PublishedModel
from compiler.model.read import stored_dtype
from compiler.model.recipe import Recipe
from compiler.model.roles import axis_sizes, model_tensors, shape_of
from compiler.model.rope import length_notes
from compiler.model.unknown import UnknownModel, copied, unknown_notes
from compiler.numerics.proof import Proof, proof_of
from compiler.pipeline.plan_checks import check_casts, mixture_notes
from compiler.pipeline.request import Ask
from compiler.pipeline.support import taken
from compiler.quantization.prequantized.checkpoint import checked
from compiler.quantization.prequantized.formats import Packed, packed
from compiler.quantization.proof_levels import PROOFS
from compiler.quantization.request import Quant
from compiler.quantization.scale_tensors import scale_tensors
from compiler.quantization.scaling import Scaling
from compiler.storage.files.digest import digest_bytes
from compiler.targets.options import TargetOptions
from compiler.targets.protocols import RankLayout, Target
from compiler.targets.values import Need


@dataclass(frozen=True)
class Plan:
    """Everything that a build will make. `digest` covers all that decides the bytes of the rank files and `files`.

    `options` name the quantization as the toolchain does, `quant` has the flags that it runs; `scaling` None: there is
    none. `ranks` of a quantized model read tensors that the checkpoint lacks: calibration and scales will make them
    (`quantization/scale_tensors.py`).
    """

    recipe: str
    target: str
    config: ModelConfig
    tp: int
    dtype: str
    limits: Limits
    options: TargetOptions
    quant: Quant
    scaling: Scaling | None
    packed: Packed | None  # how the source is quantized already
    account: Account
    layouts: tuple[Layout, ...]
    ranks: tuple[RankPlan, ...]
    heads: HeadLayout
    kv_bytes_per_token: int  # of one rank
    source_bytes: int
    needs: tuple[Need, ...]
    proof: Proof  # rows that judge, gate and verify compare
    files: Mapping[str, bytes]  # small files beside those of the ranks, by name
    digest: str
    copied: bool = False  # the files are those of the checkpoint: no recipe or layout was applied
    facts: tuple[tuple[str, str], ...] = ()  # lines that only the target has: subject and text
    notes: tuple[str, ...] = ()  # decisions where the checkpoint is ambiguous, and parts of it that are left out
    published: PublishedModel | None = None  # the config that came along and was all there is; None: headers were read
    unanswered: str = ""  # why the hub did not answer then

    def to_json(self) -> dict[str, Any]:
        """For scripts: sizes in bytes, one entry a rank, every tensor of rank 0 (all ranks have the same shapes)."""
        return {
            "recipe": self.recipe,
            "architecture": self.config.architecture,
            "target": self.target,
            "config": asdict(self.config),
            "tp": self.tp,
            "dtype": self.dtype,
            "quantisation": self.quant.decides if self.quant.requested else None,
            "limits": {
                "max_positions": self.limits.max_positions,
                "max_batch": self.limits.max_batch,
                "prefill_chunk": self.limits.prefill_chunk,
            },
            "ranks": [
                {
                    "file": rank.file,
                    "tensors": len(rank.tensors),
                    "bytes": rank.nbytes,
                    "heads": self.heads.heads,
                    "kv_heads": self.heads.kv_heads,
                    "kv_copies": self.heads.kv_copies,
                }
                for rank in self.ranks
            ],
            "tensors": [
                {"name": name, "shape": list(tensor.stored_shape), "dtype": tensor.dtype}
                for rank in self.ranks[:1]
                for name, tensor in rank.tensors
            ],
            "kv_cache_bytes_per_token_and_rank": self.kv_bytes_per_token,
            "kv_cache_bytes_per_rank_at_limits": self.kv_bytes_at_limits,
            "source_bytes": self.source_bytes,
            "published": self.published
            and {
                "model": self.published.model,
                "date": self.published.date,
                "found": self.published.found,
                "unanswered": self.unanswered,
            },
            "stages": [{"stage": n.stage, "memory": n.memory, "disk": n.disk, "note": n.note} for n in self.needs],
            "proof": self.proof.to_json(),
            "redundant": list(self.account.redundant),
            "ignored": list(self.account.ignored),
            "notes": list(self.notes),
            "facts": dict(self.facts),
            "digest": self.digest,
        }

    @property
    def kv_bytes_at_limits(self) -> int:
        return self.kv_bytes_per_token * self.limits.max_positions * self.limits.max_batch


def make_plan(
    recipe_name: str,
    recipe: Recipe,
    target: Target[Any],
    hf: Mapping[str, Any],
    headers: Mapping[str, Header],
    ask: Ask,
    max_memory: int = 1 << 30,
    notes: Sequence[str] = (),
) -> Plan:
    """Plan `ask` for the checkpoint with config.json `hf` and the tensors `headers`. `max_memory`: see Resources;
    `notes`: of the checkpoint.

    Raises:
        SourceError, RefusedError: with the reason and what can be done instead.
    """
    recipe = recipe.resolve(hf, ask.variant)
    read = recipe.model_config(hf, ask.rope_scaling, stored_dtype(headers))
    config, limits = built_for(read, ask.max_positions, ask.max_batch, extended=ask.rope_scaling is not None)
    dtype = _dtype(config, ask)
    layout, asked = target.layout or RankLayout[TargetOptions](), ask.options or target.options()
    reason = layout.copies(config, asked)
    how = _unpacked(hf, recipe, reason)
    found = taken(target, config, checked(ask.quant, how), ask.tp, asked, limits)
    # As it runs there, too: with a coarser scale the numbers of a quantized checkpoint would be rounded again.
    quant, options, scaling = checked(found.quant, how), found.options, found.scaling
    filled = copied(headers) if reason else _accounted(recipe, hf, config, headers)
    tensors = {**filled.tensors, **scale_tensors(config, filled.tensors, scaling)}
    layouts = tuple(layout.layouts(config, ask.tp, options))
    ranks = tuple(layout.rank_plans(config, ask.tp, tensors, DTYPES[dtype], options))
    check_casts(ranks)
    proof = proof_of(config, limits.max_positions)
    heads = _any_heads(config, ask.tp) if reason else layout.heads(config, ask.tp, options)
    stages = 1 if reason else max(len(ranks) // ask.tp, 1)
    cache_item = 1 if quant.cache else ITEMSIZE[DTYPES[dtype]]
    kv_bytes = cache_bytes(config, heads, stages, cache_item)
    files, fixed = layout.files(config, ask.tp, dtype, options), layout.constants(config, options)
    source_bytes = sum(_nbytes(h) for h in headers.values())
    largest = max((rank.nbytes for rank in ranks if not reason), default=source_bytes // ask.tp)
    run = largest + kv_bytes * limits.max_positions * limits.max_batch
    made = Plan(
        recipe=recipe_name,
        target=target.name,
        config=config,
        tp=ask.tp,
        dtype=dtype,
        limits=limits,
        options=options,
        quant=quant,
        scaling=scaling,
        packed=how,
        account=filled,
        layouts=layouts,
        ranks=ranks,
        heads=heads,
        kv_bytes_per_token=kv_bytes,
        source_bytes=source_bytes,
        needs=_needs(config, quant, proof, max_memory, ranks, run, target.compiler.needs(config, ask.tp, options)),
        proof=proof,
        files=files,
        digest=_digest(
            *(recipe_name, target.name, config, ask.tp, dtype, filled.uses, layouts, files, quant.decides),
            *([fixed] if fixed else []),
        ),
        copied=bool(reason),
        notes=(
            *notes,
            *filled.notes,
            *(unknown_notes(recipe, hf, config.architecture, reason) if reason else config_notes(recipe, hf)),
            *length_notes(config.rope_scaling),
            *mixture_notes(quant),
        ),
    )
    return replace(made, facts=tuple(target.support.facts(made)))


def _unpacked(hf: Mapping[str, Any], recipe: Recipe, copies: str) -> Packed | None:
    """How the source is quantized, where its weights are unpacked: not where they are copied."""
    return None if isinstance(recipe, UnknownModel) or copies else packed(hf)


def _any_heads(config: ModelConfig, tp: int) -> HeadLayout:
    """Heads of a rank of a model that the server splits."""
    return HeadLayout(max(config.heads // tp, 1), max(config.kv_heads // tp, 1), max(tp // config.kv_heads, 1))


def _accounted(recipe: Recipe, hf: Mapping[str, Any], config: ModelConfig, headers: Mapping[str, Header]) -> Account:
    """Account of the checkpoint's tensors. The error says which sizes config.json lacks."""
    try:
        return account(recipe, config, headers)
    except AccountingError as error:
        hint = "; ".join(filter(None, (error.hint, assumed_text(recipe, hf))))
        raise AccountingError(error.message, hint=hint) from None


def _dtype(config: ModelConfig, ask: Ask) -> str:
    """By torch's name. Raises RefusedError."""
    dtype = ask.dtype or config.dtype
    if dtype not in DTYPES:
        known = ", ".join(DTYPES)
        raise RefusedError(
            f"`--dtype` is one of {known}; found `{dtype}`" if ask.dtype else
            f"config.json: the dtype of the checkpoint is expected to be one of {known}; found `{dtype}`",
            hint=f"`--dtype bfloat16`, or another of {known}",
        )  # fmt: skip
    return dtype


def _needs(
    config: ModelConfig,
    quant: Quant,
    proof: Proof,
    max_memory: int,
    ranks: Sequence[RankPlan],
    run: int,
    of_target: Sequence[Need],
) -> tuple[Need, ...]:
    """Memory and disk of every step, in order. `run`: bytes of a rank's weights, and of its KV cache at the limits."""
    disk = sum(rank.nbytes for rank in ranks)
    return (
        *_calibrating(config, quant, max_memory),
        *([Need("convert", max_memory, disk, "one streaming pass; memory is a ceiling")] if ranks else []),
        *_gating(config, quant, proof, max_memory),
        Need("reference", _reference_bytes(config), 0, f"{proof.text}; a layer in float32, or the whole where it fits"),
        *of_target,
        Need("run", run, 0, "one rank: weights (mapped) and KV cache at the limits"),
    )


def _calibrating(config: ModelConfig, quant: Quant, max_memory: int) -> tuple[Need, ...]:
    if not quant.calibrated:
        return ()
    tokens = quant.text.tokens(config.max_positions)
    note, disk = f"{tokens:,} tokens at most, a layer at a time", 2 * 4 * tokens * config.hidden
    calibrating = Need("calibrate", max_memory, disk, f"{note}; memory is a ceiling")
    if quant.scheme is None or (quant.scheme.feedback is None and not quant.mixes):
        return (calibrating,)
    layer = 2 * 4 * _largest_layer(config) + moments_bytes(config)
    # Each weight in bfloat16: in the results of layers, and in the file that they are joined to.
    feeding = Need("feedback", layer, disk + 2 * 2 * config.layers * _largest_layer(config), note)
    own = (feeding, calibrating) if quant.cache else (feeding,)
    if not quant.mixes:
        return own
    return (*own, Need("mixture", max_memory, 0, "every part of a layer in every scheme, then whole mixtures"))


def _gating(config: ModelConfig, quant: Quant, proof: Proof, max_memory: int) -> tuple[Need, ...]:
    if not quant.requested:
        return ()
    level = PROOFS[quant.proof]
    tokens = level.tokens + sum(proof.lowered_rows)
    # The source as it is stored, and rounded as the scheme says, in float32.
    layer = _largest_layer(config) * (ITEMSIZE[DTYPES.get(config.dtype, "F32")] + 4)
    most = f", {level.most:,} where these do not decide" if level.most > level.tokens else ""
    note = f"--proof {quant.proof}: {tokens:,} tokens on both sides{most}; a layer of the source; rank files in blocks"
    return (Need("gate", layer + max_memory + 2 * 4 * level.most * config.hidden, 0, note),)


def _largest_layer(config: ModelConfig) -> int:
    """Its elements."""
    sizes, layers = axis_sizes(config), Counter[int]()
    for tensor in model_tensors(config):
        if tensor.layer is not None:
            layers[tensor.layer] += prod(shape_of(tensor, sizes))
    return max(layers.values(), default=0)


def _reference_bytes(config: ModelConfig) -> int:
    """Least memory for the source's own logits (numerics/reference.py): a layer, and the tensors outside of layers."""
    sizes, parts = axis_sizes(config), Counter[int | None]()
    for tensor in model_tensors(config):
        parts[tensor.layer] += 4 * prod(shape_of(tensor, sizes))
    outside = parts.pop(None, 0)
    return outside + max(parts.values(), default=0)


def _nbytes(header: Header) -> int:
    return ITEMSIZE[header.dtype] * prod(header.shape)


def _digest(*parts: object) -> str:
    """sha256 over the sizes, every program from source tensor to rank file, and the small files beside them."""
    return digest_bytes(identity(parts).encode())
