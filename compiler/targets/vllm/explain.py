"""Names of what makes a start miss: from the records of a real start, or from the environment of this machine."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from compiler.errors import UsageError
from compiler.targets.values import Finding
from compiler.targets.vllm.carrier.watch import digest
from compiler.targets.vllm.environment import CACHE_FOLDERS, in_key
from compiler.targets.vllm.factors import differences, keyed_by, may_count, merged, read_factors
from compiler.targets.vllm.proof import COMPILED, LOADED, counters_of, records_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from compiler.targets.vllm.cache import CompiledCache
    from compiler.targets.vllm.environment import Dialect
    from compiler.targets.vllm.factors import FactorDifference
    from compiler.targets.vllm.proof import Record

_REMEDIES: Mapping[str, str] = {
    "key": "set the variable as the artifact's serving.properties does, or unset it",
    "variables": "set the variable as the artifact's serving.properties does, or unset it",
    "config": "give the server the arguments of the artifact's serving.properties, the path of the model included",
    "paths": "run it in the image that the cache was made in: vLLM compares the paths of its source files",
    "versions": "use the image that the artifact was built for, or build it again for this one",
    "device": "build the artifact again on this kind of machine",
}
"""Remedy by the group of a factor."""
_RESTORED = (
    "give the server a folder that it can write (LMI_BOOT_ROOT, VLLM_CACHE_ROOT), and the artifact as it was built"
)
_ABSENT = digest(None)
"""Digest of a variable without a value in vLLM's own factors."""


def explain_start(report: Mapping[str, Any], folder: Path) -> tuple[Finding, ...]:
    """Findings on a start whose records the carrier left in `folder`. `report`: the artifact's, see bake.py.

    One "ok" if it was a hit; one "mismatch" for each factor in the key that differs, after one that states the miss.
    Factors outside of the key are notes. Raises UsageError where there are no records.
    """
    records = records_of(folder)
    if not records:
        raise UsageError(
            f"{folder} has no record of a start",
            hint="start the server with the artifact's folder on PYTHONPATH; LMI_BOOT_RECORD names the folder",
        )
    found = differences(read_factors(report["factors"]), merged(records), keyed_by(report))
    obstacles = [*_unrestored(records), *_places(records)]
    missed = _compiled(records, report["dialect"]) or _unloaded(records, report["dialect"])
    if not missed:
        return (Finding("cache", "ok", "every kernel came from the cache"), *_notes(found))
    return (
        Finding("cache", "mismatch", missed, _next_step(found, obstacles)),
        *obstacles,
        *_deciding(found),
        *_notes(found),
    )


def _compiled(records: Sequence[Record], dialect: Dialect) -> str:
    """Compilations of a start; "" for none."""
    counters = counters_of(records)
    runs = sum(record["compilers"] for record in records)
    found = [f"{name} {counters[name]}" for name in COMPILED[dialect] if name in counters]
    found += [f"{runs} compiler run(s)"] if runs else []
    return f"the start compiled: {', '.join(found)}" if found else ""


def _unloaded(records: Sequence[Record], dialect: Dialect) -> str:
    """Processes that ended without an artifact of the cache, as one that may not compile does; "" for none."""
    models = [record["counters"] for record in records if record["counters"].get("num_models_seen")]
    without = sum(not any(counters.get(name) for name in LOADED[dialect]) for counters in models)
    if not models:
        return "no process got as far as the model; the server's log has the reason"
    if not without:
        return ""
    return f"{without} of {len(models)} process(es) with a model loaded no compiled artifact"


def _unrestored(records: Sequence[Record]) -> Iterator[Finding]:
    """Reasons why the carrier did not restore the cache."""
    for problem in dict.fromkeys(record.get("problem") for record in records):
        if problem:
            yield Finding("carrier", "mismatch", f"the cache was not restored: {problem}", _RESTORED)


def _places(records: Sequence[Record]) -> Iterator[Finding]:
    """Variables of caches whose folder is outside of the restored one: what was restored is not looked for there."""
    paths = [record["factors"].get("paths", {}) for record in records]
    for name in CACHE_FOLDERS:
        outside = [each for each in paths if name in each and not _below(each[name], each.get("VLLM_CACHE_ROOT", ""))]
        if outside:
            found = outside[0][name]
            text = f"{found} is outside of the restored cache" if found else "not set here"
            yield Finding(f"paths: {name}", "mismatch", text, _REMEDIES["variables"])


def _below(path: str, root: str) -> bool:
    return bool(root) and (path == root or path.startswith(f"{root.rstrip('/')}/"))


def _next_step(found: Sequence[FactorDifference], obstacles: Sequence[Finding]) -> str:
    if obstacles or any(each.decides for each in found):
        return "remove the differences below, the first ones first"
    return "no recorded factor differs: compare the files of the cache folder with the artifact's (damaged or deleted)"


def _deciding(found: Sequence[FactorDifference]) -> Iterator[Finding]:
    for each in found:
        if each.decides:
            group = each.group.partition(".")[0]
            yield Finding(_subject(each), "mismatch", _text(each), _REMEDIES[group])


def _notes(found: Sequence[FactorDifference]) -> Iterator[Finding]:
    for each in found:
        if not each.decides:
            yield Finding(_subject(each), "note", _text(each))


def _subject(each: FactorDifference) -> str:
    return f"{each.group}: {each.name}" if each.name else each.group


def _text(each: FactorDifference) -> str:
    """Values where they are readable; of digests only that they differ, and which side has none."""
    if each.group in ("versions", "paths", "device"):
        return f"baked with {each.baked or 'none'}; {each.found or 'none'} here"
    absent = {"", _ABSENT}
    if each.baked in absent and each.found not in absent:
        return "set here; not set where the cache was made"
    if each.found in absent and each.baked not in absent:
        return "not set here; set where the cache was made"
    return "another value here"


def explain_machine(
    cache: CompiledCache, version: str, environment: Mapping[str, str], site_packages: str
) -> tuple[Finding, ...]:
    """Findings before any start: variables of `environment` in the key (of vLLM `version`), and the place of vLLM.

    `site_packages`: folder of vLLM here, "" if there is none.
    """
    here = {name: digest(value) for name, value in environment.items() if may_count(cache.key, name)}
    found = [
        Finding(f"variables: {name}", "mismatch", "set here; not set where the cache was made", _REMEDIES["variables"])
        if name not in cache.variables
        else Finding(f"variables: {name}", "mismatch", "another value here", _REMEDIES["variables"])
        for name, value in sorted(here.items())
        if in_key(name, version) and cache.variables.get(name) != value
    ]
    if site_packages and site_packages != cache.site_packages:
        text = f"baked with {cache.site_packages}; {site_packages} here"
        found.append(Finding("paths: site-packages", "mismatch", text, _REMEDIES["paths"]))
    return tuple(found) or (Finding("cache", "ok", "no variable and no path of this machine is a miss"),)


def read_report(file: Path) -> dict[str, Any]:
    """Content of an artifact's report. Raises UsageError."""
    try:
        found: dict[str, Any] = json.loads(file.read_bytes())
    except (OSError, ValueError) as error:
        raise UsageError(
            f"cannot read {file}: {error}", hint="pass the folder of a vLLM artifact with a cache"
        ) from None
    return found
