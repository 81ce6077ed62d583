"""HTTP server on this machine: serve."""

from __future__ import annotations

from typing import Annotated

import typer

from compiler.cli.options import ArtifactArgument


def serve(
    artifact: ArtifactArgument,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8080,
    queue: Annotated[int, typer.Option(help="Maximum number of queued requests.")] = 1000,
    drain_seconds: Annotated[float, typer.Option(help="Time limit for requests in flight after SIGTERM.")] = 60.0,
) -> None:
    """Serve an artifact over HTTP with LMI's routes until SIGTERM."""
    from compiler.serve import serve as run

    def ready(url: str) -> None:
        typer.echo(f"serving {artifact} on {url}")

    run(artifact, host=host, port=port, queue=queue, drain_seconds=drain_seconds, ready=ready)
