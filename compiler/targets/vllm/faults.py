"""Faults of an artifact with a cache: what manifest, report, archive and serving.properties say differently."""

from __future__ import annotations

import tarfile
from typing import TYPE_CHECKING

from compiler.errors import LmiCompileError
from compiler.lmi import java_properties
from compiler.lmi.properties import SERVING_PROPERTIES
from compiler.targets.vllm.artifact import section_of
from compiler.targets.vllm.cache import cache_section
from compiler.targets.vllm.explain import read_report
from compiler.targets.vllm.harvest import cache_file
from compiler.targets.vllm.pack import served_environment
from compiler.targets.vllm.serving import Serving, lmi_properties

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path
    from typing import Any

    from compiler.artifact.manifest import Manifest
    from compiler.targets.vllm.cache import CompiledCache


def faults(manifest: Manifest, folder: Path) -> list[str]:
    """Faults of the artifact in `folder` besides those of digests and shards, one line each."""
    section = section_of(manifest)
    if section.cache is None:
        return []
    try:
        report = read_report(folder / section.cache.report)
        return [
            *_section(section.cache, report),
            *_archive(folder / section.cache.archive, report),
            *_properties(section.cache, section.on_miss, folder / SERVING_PROPERTIES),
        ]
    except (LmiCompileError, OSError, KeyError, tarfile.TarError, EOFError) as error:
        return [f"the cache cannot be read: {error}"]


def _section(cache: CompiledCache, report: Mapping[str, Any]) -> Iterator[str]:
    wanted = cache_section(cache.archive, cache.report, report)
    for name in type(cache).model_fields:
        if getattr(cache, name) != getattr(wanted, name):
            yield f"the manifest's `{name}` of the cache is not that of {cache.report}"


def _archive(archive: Path, report: Mapping[str, Any]) -> Iterator[str]:
    expected = {file["path"]: file for file in report["files"]}
    with tarfile.open(archive, "r|gz") as opened:
        for member in opened:
            content = opened.extractfile(member) if member.isreg() else None
            found = cache_file(member.name, content.read()) if content else None
            if found is None or expected.pop(member.name, None) != vars(found):
                yield f"{archive.name}: `{member.name}` is not the file that the report names"
    yield from (f"{archive.name}: `{name}` of the report is missing" for name in expected)


def _properties(cache: CompiledCache, on_miss: str, file: Path) -> Iterator[str]:
    """Properties with which the server would be another than the one that baked."""
    found = java_properties.parse(file.read_bytes().decode("latin-1"))
    arguments: dict[str, Any] = dict(cache.serving)
    for name, value in lmi_properties(Serving(**arguments), served_environment(cache, on_miss)).items():
        if found.get(name) != value:
            yield f"{file.name}: expected {name}={value}; found {found.get(name, 'none')}"
