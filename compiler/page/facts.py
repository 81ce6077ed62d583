"""Facts of an artifact in the order of its page: tables of text, and numbers for pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.artifact.manifest import PROVENANCE, SBOM, Manifest, load_manifest
from compiler.artifact.quantization import FIGURES, quant_of
from compiler.artifact.sign import SIGNATURE
from compiler.errors import LmiCompileError, UsageError
from compiler.report import amount, seconds
from compiler.targets import expected, load

if TYPE_CHECKING:
    from compiler.model.parallel import HeadLayout

Row = tuple[str, ...]
PREWARM, PLAN = "prewarm.json", "plan.json"


@dataclass(frozen=True)
class Records:
    """Files about runs, which no artifact contains. `events`: what `build --json` printed on stderr; `prewarm`: report
    of a prewarm, None = that in the artifact's folder; `start`: seconds to the first token by mode
    (`benchmarks.start --json`).
    """

    events: Path | None = None
    prewarm: Path | None = None
    start: Path | None = None


@dataclass(frozen=True)
class RankFacts:
    """Bytes of each rank file by its name; query heads and kv heads of each rank, "" = an empty slot."""

    nbytes: Mapping[str, int]
    queries: Sequence[Sequence[str]] = ()
    keys: Sequence[Sequence[str]] = ()


@dataclass(frozen=True)
class StageFacts:
    """A step of a build: its seconds, the peak of its memory and that of its largest process in bytes, 0 = not known;
    `max_memory`: the ceiling of its buffers.
    """

    name: str
    note: str
    took: float
    peak: int = 0
    child: int = 0
    max_memory: int = 0


@dataclass(frozen=True)
class Facts:
    """Facts of one page. `layers`: part of a layer and its
    error as a share of the residual stream; `starts`: seconds to the first token by mode.
    """

    manifest: Manifest
    identity: Sequence[Row]
    ranks: RankFacts
    kinds: Sequence[Row]
    stages: Sequence[StageFacts]
    numerics: Sequence[Row]
    gate: Sequence[Row]
    layers: Sequence[tuple[str, float]]
    prewarm: Sequence[tuple[str, float]]
    starts: Mapping[str, float]
    trust: Sequence[Row]
    following: Sequence[Row] = field(default=())


def facts_of(folder: Path, records: Records) -> Facts:
    """Facts of the artifact in `folder`. Raises ArtifactError, UsageError (a record that is none)."""
    manifest = load_manifest(folder)
    prewarm = records.prewarm or folder / PREWARM
    warmed = _json(prewarm) if records.prewarm or prewarm.is_file() else {}
    starts = {str(name): float(value) for name, value in (_json(records.start) if records.start else {}).items()}
    answer = warmed.get("answer") or {}
    if answer.get("seconds_to_first_token") is not None and "prewarm" not in starts:
        loaded = float(answer.get("seconds_to_load") or 0)
        starts = {"prewarm here": loaded + float(answer["seconds_to_first_token"]), **starts}
    return Facts(
        manifest,
        _identity(manifest),
        _ranks(manifest, folder),
        _kinds(manifest),
        _stages(records.events) if records.events else (),
        _numerics(manifest),
        _gate(manifest),
        _layers(folder),
        [(phase["name"], float(phase["seconds"])) for phase in warmed.get("phases", ())],
        starts,
        _trust(manifest, folder),
        _following(manifest),
    )


def _identity(manifest: Manifest) -> list[Row]:
    m, p, device = manifest.model, manifest.parallel, manifest.device
    source = f"{m.repo_id} at {m.revision}" if m.repo_id else f"{m.source}, {m.source_digest}"
    degrees = {name: value for name, value in p.model_dump().items() if value > 1 or name == "tp"}
    return [
        ("name", manifest.name + (" (made by a stand-in toolchain)" if manifest.stand_in else "")),
        ("digest", manifest.digest),
        ("model", f"{m.architecture} (recipe {m.recipe})"),
        ("source", source),
        ("target", f"{manifest.target}, {', '.join(f'{name} {value}' for name, value in degrees.items())}"),
        ("dtype", manifest.dtype),
        ("device", " ".join(filter(None, (device.kind, device.isa, device.capability, *device.features)))),
        ("limits", f"{manifest.limits.max_positions:,} positions, {manifest.limits.max_batch} rows"),
        ("toolchain", ", ".join(f"{name} {value}" for name, value in sorted(manifest.toolchain.items())) or "none"),
        ("written by", f"lmi-compile {manifest.writer}" if manifest.writer else "an older version"),
        *manifest.section.facts(),
        *expected(manifest),
        *(("note", note) for note in m.notes),
    ]


def _ranks(manifest: Manifest, folder: Path) -> RankFacts:
    sizes = {file.path: file.size for file in manifest.files}
    nbytes = {path: sizes[path] for path in manifest.section.rank_files}
    plan = folder / PLAN
    if plan.is_file() and (heads := _json(plan).get("heads")):
        tp = int(heads["tp"])
        return RankFacts(nbytes, _slots(heads["queries"], tp), _slots(heads["keys"], tp))
    found = _layout(manifest)
    if found is None:
        return RankFacts(nbytes)
    tp = manifest.parallel.tp
    queries = [[str(rank * found.heads + head) for head in range(found.heads)] for rank in range(tp)]
    first = [rank // found.kv_copies if found.kv_copies > 1 else rank * found.kv_heads for rank in range(tp)]
    return RankFacts(nbytes, queries, [[str(start + head) for head in range(found.kv_heads)] for start in first])


def _slots(slots: Sequence[int | None], tp: int) -> list[list[str]]:
    """Heads of each rank; "" for an empty slot. Slots that no rank boundary divides are on every rank in part."""
    each = max(len(slots) // tp, 1)
    return [
        ["" if head is None else str(head) for head in slots[rank * each : (rank + 1) * each]] for rank in range(tp)
    ]


def _layout(manifest: Manifest) -> HeadLayout | None:
    """Heads of a rank by the target's layout; None for a target that splits nothing here."""
    try:
        target = load(manifest.target)
        if target.layout is None or not manifest.section.rank_files:
            return None
        return target.layout.heads(manifest.config, manifest.parallel.tp, target.packager.options_of(manifest))
    except LmiCompileError:
        return None


def _kinds(manifest: Manifest) -> list[Row]:
    found: dict[str, list[int]] = {}
    for file in manifest.files:
        head, separator, _ = file.path.partition("/")
        found.setdefault(f"{head}/" if separator else head, []).append(file.size)
    rows = sorted(found.items(), key=lambda item: -sum(item[1]))
    return [(name, str(len(sizes)), amount(sum(sizes), "bytes")) for name, sizes in rows]


def _stages(path: Path) -> list[StageFacts]:
    """Ended stages of the events of a build. Raises UsageError."""
    found = []
    try:
        for line in path.read_text().splitlines():
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("event") == "end":
                memory = (int(event.get(key, 0)) for key in ("peak_memory", "peak_memory_child", "max_memory"))
                found.append(StageFacts(str(event["stage"]), str(event["note"]), float(event["seconds"]), *memory))
    except (OSError, ValueError, KeyError) as error:
        raise UsageError(
            f"`--events {path}` is expected to have the lines of `build --json` on stderr; found {error!r}",
            hint="`lmi-compile build ... --json 2>events.jsonl`",
        ) from None
    return found


def _numerics(manifest: Manifest) -> list[Row]:
    found = manifest.numerics
    if found is None:
        return []
    limits = found.thresholds
    figures = {
        "KL divergence, mean": found.kl, "KL divergence, median": found.kl_median, "cosine": found.cosine,
        "same first choice": found.top1_agreement, "largest difference": found.max_abs,
        "mean difference": found.mean_abs,
    }  # fmt: skip
    names = {
        "KL divergence, mean": "kl", "KL divergence, median": "kl_median", "cosine": "cosine",
        "same first choice": "top1_agreement", "largest difference": "max_abs", "mean difference": "mean_abs",
    }  # fmt: skip
    rows = [(name, f"{value:.6g}", _limit(limits.get(names[name]))) for name, value in figures.items()]
    return [*rows, ("against", found.reference, ""), ("tokens", f"{found.tokens:,}", "")]


def _limit(value: float | None) -> str:
    return "" if value is None else f"{value:g}"


def _gate(manifest: Manifest) -> list[Row]:
    if manifest.quantisation is None:
        return []
    gate = manifest.quantisation.gate
    limits = gate.limits
    rows: list[Row] = [
        ("scheme", quant_of(manifest.quantisation).name, ""),
        ("perplexity", f"{gate.perplexity_float:.5g} -> {gate.perplexity:.5g}", ""),
        (
            "increase",
            f"{gate.perplexity_increase:+.2%}",
            f"{limits['perplexity']:+.2%}" if "perplexity" in limits else "",
        ),
        ("KL divergence, nats", f"{gate.kl:.3g}", _limit(limits.get("kl"))),
        ("same first choice", f"{gate.top1_agreement:.1%}", ""),
        ("worst part", f"{gate.worst}" + (f", {gate.stream:.2%} of the stream" if gate.stream is not None else ""), ""),
        ("tokens", f"{gate.tokens:,}", ""),
    ]
    return [*rows, *([("accepted", "beyond its limits, by --accept-numerics", "")] if gate.accepted else [])]


def _layers(folder: Path) -> list[tuple[str, float]]:
    path = folder / FIGURES
    parts = _json(path).get("parts", ()) if path.is_file() else ()
    return [(str(part["name"]), float(part["stream"])) for part in parts if part.get("stream") is not None]


def _trust(manifest: Manifest, folder: Path) -> list[Row]:
    signed = (folder / SIGNATURE).is_file()
    rows: list[Row] = [
        (
            "signature",
            f"{len((folder / SIGNATURE).read_bytes().splitlines())} in {SIGNATURE}" if signed else "not signed",
        )
    ]
    if (folder / PROVENANCE).is_file():
        predicate = _json(folder / PROVENANCE).get("predicate", {})
        details = predicate.get("runDetails", {})
        rows += [
            ("builder", str(details.get("builder", {}).get("id", "unnamed"))),
            ("build type", str(predicate.get("buildDefinition", {}).get("buildType", ""))),
            ("finished", str(details.get("metadata", {}).get("finishedOn", "no time: equal builds have equal bytes"))),
        ]
    if (folder / SBOM).is_file():
        rows.append(("components", f"{len(_json(folder / SBOM).get('components', ()))} in {SBOM}"))
    return [*rows, ("plan", manifest.plan_digest)]


def _following(manifest: Manifest) -> list[Row]:
    """Commands to run next, and what each does."""
    left = manifest.section.unfinished
    if left:
        return [("finish it", left)]
    name = manifest.name
    rows: list[Row] = [
        (f"lmi-compile verify {name}", "digests, layout, logits"),
        (f"lmi-compile sign {name} --key key.pem", "before it travels"),
        (f"lmi-compile push {name} s3://BUCKET/engines/", "publish"),
        (f"lmi-compile prewarm s3://BUCKET/engines/{name}@latest DIR", "on the machine that serves it"),
    ]
    if manifest.section.image_tag:
        rows.append((f"lmi-compile deploy s3://BUCKET/engines/{name}@latest --dry-run", "as an endpoint"))
    return rows


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(f"{path} is expected to be a JSON object; found {error!r}", hint="name another file") from None
    if not isinstance(found, dict):
        raise UsageError(f"{path} is expected to be a JSON object; found a list", hint="name another file")
    return found


def duration(count: float) -> str:
    """Text of seconds, with two digits below ten."""
    return f"{count:.2f} s" if count < 10 else seconds(count)
