"""Text that commands print on stdout for people; `--json` prints the same facts for scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compiler.pipeline.notes import alphas_text, numerics_text
from compiler.report import amount, seconds, table
from compiler.targets import expected

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from compiler.artifact.manifest import Manifest
    from compiler.artifact.quantization import Gate, Quantisation
    from compiler.deploy.doctor import Diagnosis
    from compiler.model.recipe import Recipe
    from compiler.pipeline.alternatives import Alternative
    from compiler.pipeline.plan import Plan
    from compiler.quantization.request import Quant
    from compiler.storage.cache.stages import CacheLine


def plan_text(plan: Plan, took: Mapping[str, float] | None = None) -> str:
    """Text of a plan: the model, the file of each rank, memory and disk of each stage, and the seconds that it takes,
    `took`, where these were estimated.
    """
    c = plan.config
    cache = f", {amount(plan.kv_bytes_at_limits, 'bytes')} of KV cache a rank"
    kinds = sorted({kind.name for kind in c.layer_kinds})
    facts = [
        ("model", f"{c.architecture} (recipe {plan.recipe}), {c.layers} layers: {', '.join(kinds)}"),
        ("source", f"{len(plan.account.tensors)} tensors, {amount(plan.source_bytes, 'bytes')}"),
        *([("", text) for text in published_texts(plan)]),
        *([("", plan.packed.text)] if plan.packed else []),
        *(("note", note) for note in plan.notes),
        ("target", f"{plan.target}, {parallel_text(plan.tp, plan.options.split)}, {plan.dtype}"),
        ("heads", _heads_text(plan)),
        *([("quantized", quant_text(plan.quant))] if plan.quant.requested else []),
        *plan.facts,
        ("KV cache", f"{plan.kv_bytes_per_token:,} bytes a token and rank"),
        ("limits", f"{plan.limits.max_positions} positions, {plan.limits.max_batch} rows{cache}"),
    ]
    ranks = [(rank.file, str(len(rank.tensors)), amount(rank.nbytes, "bytes")) for rank in plan.ranks]
    known = took or {}
    needs = [
        (
            n.stage,
            amount(n.memory, "bytes"),
            amount(n.disk, "bytes"),
            seconds(known[n.stage]) if n.stage in known else "-",
            n.note,
        )
        for n in plan.needs
    ]
    return "\n\n".join(
        [
            table(facts),
            table(ranks, ("rank file", "tensors", "bytes")),
            table(needs, ("stage", "memory", "disk", "about", "")),
        ]
    )


_UNCOMPARED = " (written without the published file at hand; it may differ)"


def published_texts(plan: Plan) -> list[str]:
    """Sentences on a plan from a published config that comes along; [] for a plan from the model's own headers."""
    if plan.published is None:
        return []
    found, origin = plan.published, "" if plan.published.found else _UNCOMPARED
    return [
        f"shapes by the config of {found.model}, {found.date}, that comes along{origin}; the tokenizer is not read",
        f"the hub was not read: {plan.unanswered}",
    ]


def _heads_text(plan: Plan) -> str:
    heads, latent = plan.heads, plan.config.kv_rank + plan.config.rotary_dim
    if plan.config.kv_rank:
        return f"{heads.heads} query heads a rank; every rank caches the latent of all heads, {latent} elements a token"
    copies = f", each on {heads.kv_copies} ranks" if heads.kv_copies > 1 else ""
    return f"{heads.heads} query and {heads.kv_heads} kv heads a rank{copies}"


def option_text(quant: Quant) -> str:
    """The option that asks for a scheme or for a quantized cache: `--quant awq`, `--kv-cache int8`, `--quant none`."""
    if quant.cache:
        return f"--kv-cache {quant.cache}"
    return f"--quant {quant.scheme.name if quant.scheme else 'none'}"


def alternative_json(one: Alternative) -> dict[str, Any]:
    return {
        "option": option_text(one.quant),
        "weights": one.weights,
        "cache": one.cache,
        "refused": one.refused,
        "cache_tokens_in_a_gib": one.cache_tokens_in_a_gib,
    }


def alternatives_text(found: Sequence[Alternative]) -> str:
    """Table of quantization choices: bytes of a rank and of the KV cache, or the reason of the refusal."""
    rows = [
        (
            option_text(one.quant),
            amount(one.weights, "bytes"),
            f"{one.cache:,} bytes a token, {one.cache_tokens_in_a_gib:,} tokens in a GiB",
            "",
        )
        if one.weights is not None
        else (option_text(one.quant), "-", "-", one.refused)
        for one in found
    ]
    return table(rows, ("quantization", "a rank", "KV cache", ""))


def calibration_text(tokens: int, took: float) -> str:
    """Text of the estimate of the calibration's duration. `took`: seconds."""
    return (
        f"calibrating on at most {tokens:,} tokens takes about {seconds(took)} here: float32 products, at half of the "
        "rate of one that was measured just now, as for all durations above"
    )


def quant_text(quant: Quant) -> str:
    """Text of a quantization: `smoothquant: weights int8 per channel, activations int8 per token, alpha 0.5`."""
    words, scheme = [], quant.scheme
    if scheme is not None and quant.mixes:
        names = [part.name for layer in scheme.parts for part in layer]
        counts = ", ".join(f"{names.count(name)} {name}" for name in sorted(set(names)))
        words.append(f"attentions and mlps {counts}" if counts else "a scheme for each attention and mlp, by its cost")
    elif scheme is not None:
        per = f"group of {scheme.group}" if scheme.group else scheme.weight_scales
        words.append(_rounded_text(scheme.weights, per, scheme.activations, scheme.activation_scales))
    if quant.smooths:
        words.append("alpha searched for" if quant.alpha is None else f"alpha {quant.alpha:g}")
    words += [f"KV cache {quant.cache}"] if quant.cache else []
    words += [f"head {quant.head}"] if quant.head else []
    return (f"{scheme.name}: " if scheme else "") + ", ".join(words)


def _rounded_text(weights: str, weight_scales: str, activations: str, activation_scales: str) -> str:
    rounded = f"{activations} per {activation_scales}" if activations != "float" else "not quantized"
    return f"weights {weights} per {weight_scales}, activations {rounded}"


def manifest_text(manifest: Manifest) -> str:
    """Text of a manifest: the artifact, its source, the devices that it runs on."""
    m, found, p = manifest.model, manifest.numerics, manifest.parallel
    source = f"{m.repo_id} at {m.revision}" if m.repo_id else m.source
    toolchain = ", ".join(f"{name} {value}" for name, value in sorted(manifest.toolchain.items()))
    facts = [
        ("name", manifest.name + (" (made by a stand-in toolchain)" if manifest.stand_in else "")),
        ("digest", manifest.digest),
        ("model", f"{m.architecture} (recipe {m.recipe}), {source}"),
        ("target", f"{manifest.target}, {parallel_text(p.tp, p.model_dump(exclude={'tp'}))}, {manifest.dtype}"),
        ("runs on", _device_text(manifest)),
        ("toolchain", toolchain or "not compiled yet"),
        ("limits", f"{manifest.limits.max_positions} positions, {manifest.limits.max_batch} rows"),
        *(_quantization_facts(manifest.quantisation) if manifest.quantisation else []),
        *manifest.section.facts(),
        *expected(manifest),
        ("files", f"{len(manifest.files)}, {amount(sum(f.size for f in manifest.files), 'bytes')}"),
        ("numerics", numerics_text(manifest) if found else "not measured"),
    ]
    return table(facts)


def parallel_text(tp: int, split: Mapping[str, int]) -> str:
    """Text of the parallel degrees, `tp 8, pp 2`; degrees of 1 except tp are omitted."""
    return ", ".join([f"tp {tp}", *(f"{name} {count}" for name, count in split.items() if count > 1)])


def _device_text(manifest: Manifest) -> str:
    device = manifest.device
    if device.kind == "cuda":
        return f"cuda, compute capability {device.capability}" if device.capability else "cuda"
    isa = f", {device.isa}" if device.isa else ""
    return f"{device.kind}{isa}" + (f" with {', '.join(device.features)}" if device.features else "")


def _quantization_facts(found: Quantisation) -> list[tuple[str, str]]:
    from compiler.artifact.quantization import quant_of

    gate, text = found.gate, found.calibration
    limits = ", ".join(f"{name} {value:g}" for name, value in gate.limits.items())
    perplexity = f"perplexity {gate.perplexity_float:g} -> {gate.perplexity:g} ({gate.perplexity_increase:+.2%})"
    return [
        ("quantized", quant_text(quant_of(found))),
        *([("", alphas_text(found.alphas))] if found.alphas else []),
        *([("calibrated on", f"{amount(text.tokens, 'tokens')} of {text.text}, {text.digest}")] if text else []),
        ("gate", f"{perplexity}, KL {gate.kl:g}, over {gate.tokens} tokens"),
        ("", _parts_text(gate)),
        ("limits of the gate", f"{limits}{'; ACCEPTED BEYOND THEM by --accept-numerics' if gate.accepted else ''}"),
    ]


def _parts_text(gate: Gate) -> str:
    if gate.stream is None:
        return f"least cosine {gate.cosine:g} ({gate.worst or 'layers not measured'})"
    away = "" if gate.distance is None else f"; at most {gate.distance:g} scheme errors from its scheme"
    covered = ""
    if gate.coverage is not None:
        one = gate.coverage
        covered = f"; {len(one.layers)} layers over {one.part_tokens} tokens (--proof {one.proof})"
    return f"largest error {gate.stream:.2%} of the residual stream ({gate.worst}){away}{covered}"


def build_text(output: Path, manifest: Manifest | None) -> str:
    """Text of a build's result: the artifact's folder, or a note where `--until` ended the build before."""
    if manifest is None:
        return "`--until` ended the build before there was an artifact; the results are in the cache"
    return str(output)


def models_text(loaded: Mapping[str, Recipe], refused: Mapping[str, Mapping[str, Mapping[Quant, str]]]) -> str:
    """Recipes, the architectures they read and the names that `--model` knows; then the quantizations of each target.

    `refused`: by recipe and target, see pipeline/support.py.
    """
    known = [(name, ", ".join(one.hf_architectures), ", ".join(one.models)) for name, one in loaded.items()]
    targets = sorted({target for of in refused.values() for target in of})
    taken = [(name, *(_taken_text(refused[name][target]) for target in targets)) for name in loaded]
    return "\n\n".join(
        [
            table(known, ("recipe", "architectures", "names for `--model`")),
            table(taken, ("recipe", *(f"target `{target}`: `--quant`; `--kv-cache`" for target in targets))),
            "`lmi-compile plan` lists the choices of one checkpoint at one tp, with reasons.",
        ]
    )


def _taken_text(refused: Mapping[Quant, str]) -> str:
    """Accepted schemes and caches. `refused`: the reason, "" where it is accepted."""
    if reason := next(reason for quant, reason in refused.items() if not quant.requested):
        return f"none: {reason}"
    taken = [quant for quant, reason in refused.items() if not reason]
    schemes = [quant.scheme.name for quant in taken if quant.scheme]
    caches = [quant.cache for quant in taken if quant.cache]
    return f"{' '.join(schemes) or 'none'}; {' '.join(caches) or 'none'}"


def diagnosis_text(diagnosis: Diagnosis) -> str:
    """Table of findings, then of the targets that can be built and run."""
    findings = [(f.subject, f.state, f.text + (f" -> {f.remedy}" if f.remedy else "")) for f in diagnosis.findings]
    abilities = [
        (a.target, "yes" if a.compiles else "no", "yes" if a.runs else "no", a.why) for a in diagnosis.abilities
    ]
    mends = [(a.target, a.mend) for a in diagnosis.abilities if a.mend]
    parts = [table(findings), table(abilities, ("target", "builds here", "runs here", ""))]
    return "\n\n".join([*parts, *([table(mends, ("to build for", "run"))] if mends else [])])


def cache_text(entries: Sequence[CacheLine]) -> str:
    """Table of cache entries, the most recently used first, then the sum."""
    import datetime

    rows = [
        (
            entry.stage,
            entry.key[:12],
            str(entry.files),
            amount(entry.nbytes, "bytes"),
            datetime.datetime.fromtimestamp(entry.used, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"),
        )
        for entry in entries
    ]
    total = f"{len(entries)} entries, {amount(sum(entry.nbytes for entry in entries), 'bytes')}"
    return (table(rows, ("stage", "key", "files", "size", "last used")) + "\n\n" if rows else "") + total
