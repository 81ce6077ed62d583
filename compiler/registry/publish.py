"""Publish what may be published: the way into a store that the command line offers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.artifact.manifest import load_manifest
from compiler.artifact.scan import check_publishable
from compiler.registry.push import Pushed, push
from compiler.store.objects.flow import THREADS

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.registry.layout import Layout
    from compiler.report import Report


def publish(
    artifact: Path,
    uri: str,
    report: Report | None = None,
    *,
    layout: Layout = "plain",
    repair: bool = False,
    threads: int = THREADS,
) -> Pushed:
    """`push`, where `scan` finds neither credentials nor paths of this machine. Raises RefusedError, and as push."""
    check_publishable(artifact, load_manifest(artifact))
    return push(artifact, uri, report, layout=layout, repair=repair, threads=threads)


def is_store(output: str | None) -> bool:
    """Whether `--output` names a store (`s3://...`, `file://...`), not a folder to build in."""
    return output is not None and "://" in output
