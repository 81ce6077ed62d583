"""HTTP server on this machine: serve."""

from __future__ import annotations

from typing import Annotated

import typer

from compiler.cli.options import ArtifactArgument

_CONTRACT = "Contract"
_OURS = ("queue", "drain_seconds", "body_seconds", "lmi_version", "lmi_backend", "output_formatter", "tgi_compat")
"""Options that a toolchain's own server does not have."""


def serve(
    context: typer.Context,
    artifact: ArtifactArgument,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.", min=0, max=65535)] = 8080,
    queue: Annotated[int, typer.Option(help="Maximum number of queued requests.")] = 1000,
    drain_seconds: Annotated[float, typer.Option(help="Time limit for requests in flight after SIGTERM.")] = 60.0,
    body_seconds: Annotated[float, typer.Option(help="Time limit for the body of a request.")] = 60.0,
    lmi_version: Annotated[
        str | None,
        typer.Option(
            help="Answer as this LMI release, such as 0.26 [default: 0.30, strict]", rich_help_panel=_CONTRACT
        ),
    ] = None,
    lmi_backend: Annotated[
        str | None,
        typer.Option(help="Backend of that release: trtllm or vllm [default: trtllm]", rich_help_panel=_CONTRACT),
    ] = None,
    output_formatter: Annotated[
        str | None, typer.Option(help="json, jsonlines or sse, for every answer.", rich_help_panel=_CONTRACT)
    ] = None,
    tgi_compat: Annotated[
        bool, typer.Option("--tgi-compat", help="Answer as Text Generation Inference.", rich_help_panel=_CONTRACT)
    ] = False,
) -> None:
    """Serve an artifact over HTTP with LMI's routes until SIGTERM."""
    from compiler.lmi.contract import contract_of
    from compiler.serve import serve as run

    def ready(url: str) -> None:
        typer.echo(f"serving {artifact} on {url}")

    given = [name for name in _OURS if str(getattr(context.get_parameter_source(name), "name", "")) == "COMMANDLINE"]
    contract = contract_of(lmi_version, lmi_backend, output_formatter, tgi=tgi_compat)
    run(
        artifact,
        host=host,
        port=port,
        queue=queue,
        drain_seconds=drain_seconds,
        body_seconds=body_seconds,
        contract=contract,
        ready=ready,
        given=[f"--{name.replace('_', '-')}" for name in given],
    )
