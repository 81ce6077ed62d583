"""Artifacts in a store: push, pull, ls, promote, rollback, history, diff, gc.

A store is `s3://bucket/prefix/`, `file:///folder/` or a path; an artifact in it NAME, NAME@TAG or NAME@sha256:...
(compiler/registry/address.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from compiler.cli.options import ArtifactArgument, Json, RequireSignature
from compiler.cli.output import reporting, show

Uri = Annotated[str, typer.Argument(help="STORE/NAME[@TAG], such as s3://bucket/engines/mixtral@current.")]
StoreUri = Annotated[str, typer.Argument(help="s3://bucket/prefix/ or a folder, ending with `/`.", metavar="STORE")]
Threads = Annotated[int, typer.Option(help="Parts in flight at once.", min=1, max=32)]


def push(
    artifact: ArtifactArgument,
    uri: Annotated[str, typer.Argument(help="STORE/ or STORE/NAME[@TAG]; without a tag, `latest` moves.")],
    layout: Annotated[
        Literal["plain", "cas"],
        typer.Option(help="plain: files by name; cas: blobs by digest, shared by all artifacts."),
    ] = "plain",
    repair: Annotated[
        bool, typer.Option("--repair", help="Verify the files in the store and replace damaged ones.")
    ] = False,
    threads: Threads = 8,
    as_json: Json = False,
) -> None:
    """Publish an artifact that passes `scan`. Resumes after an interruption."""
    from compiler.registry.push import push as run
    from compiler.registry.summary import pushed_text

    with reporting(as_json=as_json) as report:
        pushed = run(artifact, uri, report, layout=layout, repair=repair, threads=threads)
    show(pushed.to_json(), pushed_text(pushed), as_json=as_json)


def pull(
    uri: Uri,
    folder: Annotated[Path, typer.Argument(help="Folder to make or to update.", metavar="DIR")],
    rank: Annotated[int | None, typer.Option(help="Fetch only this rank's files and the shared ones.")] = None,
    require_signature: RequireSignature = None,
    threads: Threads = 8,
    as_json: Json = False,
) -> None:
    """Fetch an artifact: missing and changed files, verified. Resumes after an interruption."""
    from compiler.registry.pull import pull as run
    from compiler.registry.resolve import resolve_signed
    from compiler.registry.summary import pulled_text

    with reporting(as_json=as_json) as report:
        pulled = run(resolve_signed(uri, require_signature), folder, report, rank=rank, threads=threads)
    show(pulled.to_json(), pulled_text(pulled), as_json=as_json)


def ls(
    uri: Annotated[str, typer.Argument(help="STORE/ or STORE/NAME[@TAG].")] = "artifacts/", as_json: Json = False
) -> None:
    """List the artifacts in a store and the tags that point to them."""
    from compiler.registry.listing import listing
    from compiler.registry.summary import listing_text

    lines = listing(uri)
    show([line.to_json() for line in lines], listing_text(lines), as_json=as_json)


def promote(uri: Uri, to: Annotated[str, typer.Option(help="Tag to move.")] = "current", as_json: Json = False) -> None:
    """Point a tag to an artifact, atomically."""
    from compiler.registry.refs import promote as run
    from compiler.registry.summary import moved_text

    with reporting(as_json=as_json) as report:
        moved = run(uri, to, report)
    show(moved.to_json(), moved_text(moved), as_json=as_json)


def rollback(
    uri: Annotated[str, typer.Argument(help="STORE/NAME[@TAG]; without a tag, `current`.")], as_json: Json = False
) -> None:
    """Move a tag back to its previous artifact."""
    from compiler.registry.refs import rollback as run
    from compiler.registry.summary import moved_text

    with reporting(as_json=as_json) as report:
        moved = run(uri, report)
    show(moved.to_json(), moved_text(moved), as_json=as_json)


def history(
    uri: Annotated[str, typer.Argument(help="STORE/NAME[@TAG]; without a tag, all of them.")], as_json: Json = False
) -> None:
    """Show who moved a tag, when, and to which artifact."""
    from compiler.registry.refs import history as run
    from compiler.registry.summary import history_json, history_text

    lines = run(uri)
    show(history_json(lines), history_text(lines), as_json=as_json)


def diff(
    one: Annotated[str, typer.Argument(help="Folder of an artifact, or STORE/NAME[@TAG].", metavar="A")],
    other: Annotated[str, typer.Argument(help="Folder of an artifact, or STORE/NAME[@TAG].", metavar="B")],
    as_json: Json = False,
) -> None:
    """Compare two artifacts: versions, options, files, numerics."""
    from compiler.registry.difference import diff as run
    from compiler.registry.summary import difference_text

    difference = run(one, other)
    show(difference.to_json(), difference_text(difference), as_json=as_json)


def gc(
    uri: StoreUri,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the objects that would be removed.")] = False,
    grace_hours: Annotated[float, typer.Option(help="Keep younger objects.", min=1)] = 168.0,
    keep: Annotated[int, typer.Option(help="Artifacts to keep for each tag, for rollbacks.", min=2)] = 5,
    as_json: Json = False,
) -> None:
    """Remove objects of a store that no tag refers to any more."""
    from compiler.registry.gc import collect
    from compiler.registry.summary import collected_text

    with reporting(as_json=as_json) as report:
        collected = collect(uri, report, grace=grace_hours * 3600, keep=keep, dry_run=dry_run)
    show(collected.to_json(), collected_text(collected), as_json=as_json)
