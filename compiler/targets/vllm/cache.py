"""The compiled cache in the manifest: what it is for, and what was proven about it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from compiler.artifact.sections import Count, InnerPath, Size, Strict
from compiler.targets.vllm.factors import Keyed, keyed_by, read_factors, variables_in

if TYPE_CHECKING:
    from compiler.artifact.parts import Part

NOT_RUN = ("a container image", "SageMaker")
"""Surroundings that no build runs its proof in."""
NOT_RUN_BY_DEVICE: Mapping[str, tuple[str, ...]] = {"cpu": ("a GPU",), "cuda": ()}


class CacheProof(Strict):
    """Proof by a second start (proof.py). `isolated`: without a network, the model's folder read-only. `counters`: sums
    over the ranks. `largest_difference`: of log probabilities from the start that compiled; `reference_difference`:
    median from the judge's, None: not compared. `control`: reasons why the
    start with another key was judged a miss. `not_run`: surroundings in which nothing was proven.
    """

    isolated: bool
    counters: dict[str, Count]
    largest_difference: float
    reference_difference: float | None
    control: tuple[str, ...]
    not_run: tuple[str, ...]


class CompiledCache(Strict):
    """vLLM's compiled cache. `archive`: its file; `report`: factors of its key, and answers; `device`: kind of device.

    `key`: program whose key it has, see factors.py; `variables`: digests of the variables in it. `model_path`: path
    that the model must have. `files`, `size`: number and bytes of the files unpacked.

    `contains_pickle`: loading the cache runs code in it, so the signature must be checked before it is unpacked.
    """

    archive: InnerPath
    report: InnerPath
    dialect: Literal["J", "A", "M"]
    key: Annotated[Keyed, Field(exclude_if=lambda value: value == "vllm")] = "vllm"
    device: str
    model_path: str
    site_packages: str
    serving: dict[str, str | int]
    variables: dict[str, str]
    files: Size
    size: Size
    contains_pickle: bool
    proof: CacheProof


def cache_of(archive: Part, report: Part) -> CompiledCache:
    """Section of the cache from the files of its bake."""
    return cache_section(archive.path, report.path, json.loads(report.read()))


def cache_section(archive: str, report: str, data: Mapping[str, Any]) -> CompiledCache:
    """Section of a cache from the content of its report, see bake.py."""
    factors, serving, key = read_factors(data["factors"]), data["serving"], keyed_by(data)
    return CompiledCache(
        archive=archive,
        report=report,
        dialect=data["dialect"],
        key=key,
        device=data["device"],
        model_path=serving["model"],
        site_packages=next(iter(factors.get("paths", {}).get("site-packages", ())), ""),
        serving=serving,
        variables=variables_in(key, factors),
        files=len(data["files"]),
        size=sum(file["size"] for file in data["files"]),
        contains_pickle=any(file["pickle"] for file in data["files"]),
        proof=CacheProof(
            isolated=data["isolated"], not_run=(*NOT_RUN, *NOT_RUN_BY_DEVICE[data["device"]]), **_proof(data["proof"])
        ),
    )


def _proof(proof: Mapping[str, Any]) -> dict[str, Any]:
    return {**proof, "control": tuple(proof["control"])}


def cache_text(cache: CompiledCache) -> str:
    """Line of `inspect`."""
    proven = "a second start was a hit, the control a miss"
    where = "without a network" if cache.proof.isolated else "not isolated"
    by = ", by torch's key" if cache.key == "torch" else ""
    return (
        f"dialect {cache.dialect}{by}, {cache.files} files for {cache.model_path}; {proven} ({where}); "
        f"not run: {', '.join(cache.proof.not_run)}; contains pickles: {'yes' if cache.contains_pickle else 'no'}"
    )
