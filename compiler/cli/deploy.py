"""Deployment to SageMaker: deploy, status, undeploy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from compiler.cli.groups import grouped
from compiler.cli.options import Json
from compiler.cli.output import reporting, show

if TYPE_CHECKING:
    from compiler.deploy.request import DeployRequest, PreparedDeployment


@dataclass(frozen=True)
class EndpointOptions:
    """The endpoint: its instances, its container and its time limits."""

    panel: ClassVar[str] = "Endpoint"

    instance_type: Annotated[str, typer.Option(help="Instance type, such as ml.g5.12xlarge.")]
    role: Annotated[str, typer.Option(help="ARN of the execution role; it can read the artifact.")]
    image: Annotated[str, typer.Option(help="Tag or full name of an LMI image [default: the artifact's]")] = ""
    name: Annotated[str, typer.Option(help="Name of the endpoint [default: the artifact's]")] = ""
    region: Annotated[str, typer.Option(help="AWS region [default: the session's]")] = ""
    count: Annotated[int, typer.Option(help="Number of instances.")] = 1
    copies: Annotated[str, typer.Option(help="Copies of the model, as an inference component.", metavar="N|auto")] = ""
    env: Annotated[
        list[str] | None, typer.Option(help="Environment of the container; may be repeated.", metavar="K=V")
    ] = None
    startup_seconds: Annotated[
        int | None, typer.Option(help="Time limit for the container's start [default: by the prewarm]")
    ] = None
    download_seconds: Annotated[int | None, typer.Option(help="Time limit for the download [default: by its size]")] = (
        None
    )
    prewarm: Annotated[Path | None, typer.Option(help="Report of a prewarm [default: the artifact's prewarm.json]")] = (
        None
    )
    ami: Annotated[str, typer.Option(help="AMI version, or `default` [default: by the image's CUDA]")] = ""
    network: Annotated[bool, typer.Option("--network", help="Allow the container to use the network.")] = False


@grouped
def deploy(
    artifact: Annotated[str, typer.Argument(help="s3://STORE/NAME@TAG, or s3://PREFIX/.", metavar="ARTIFACT")],
    endpoint: EndpointOptions,
    wait: Annotated[bool, typer.Option(help="Wait until the endpoint is in service.")] = True,
    smoke: Annotated[bool, typer.Option(help="Test the endpoint in service with two requests.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, and only print the requests.")] = False,
    emit: Annotated[
        str, typer.Option(help="Check, and only write a definition.", metavar="terraform|cloudformation")
    ] = "",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="File for the definition [default: stdout]")
    ] = None,
    as_json: Json = False,
) -> None:
    """Create or update a SageMaker endpoint, after a preflight."""
    from compiler.deploy.request import prepare
    from compiler.deploy.rollout import deploy as run
    from compiler.errors import UsageError
    from compiler.lmi.definitions import check_format

    if output is not None and not emit:
        raise UsageError("`--output` is the file of `--emit`", hint="pass `--emit terraform` or cloudformation")
    if emit:
        check_format(emit)
    request = _request(artifact, endpoint)
    with reporting(as_json=as_json) as report:
        prepared = prepare(request)
        for text in prepared.warnings:
            report.warn(text)
        if not emit and not dry_run:
            done = run(prepared, report, region=endpoint.region, wait=wait, test=smoke and wait)
            show(done.to_json(), done.endpoint, as_json=as_json)
    if emit:
        _write_definition(prepared, emit, output, as_json=as_json)
    elif dry_run:
        show(prepared.to_json(), "", as_json=True)


def _request(artifact: str, options: EndpointOptions) -> DeployRequest:
    """Request of the options. Raises UsageError."""
    from compiler.deploy.request import DeployRequest
    from compiler.errors import UsageError

    pairs = [pair.partition("=") for pair in options.env or []]
    if wrong := [key for key, equals, _ in pairs if not equals]:
        raise UsageError(f"`--env` takes KEY=VALUE; found `{wrong[0]}`", hint=f"`--env {wrong[0]}=VALUE`")
    given = {key: value for key, value in vars(options).items() if key not in ("env", "network")}
    return DeployRequest(
        artifact, **given, environment={key: value for key, _, value in pairs}, isolated=not options.network
    )


def _write_definition(prepared: PreparedDeployment, form: str, output: Path | None, *, as_json: bool) -> None:
    """Write the definition of `--emit` to a file, or to stdout."""
    from compiler.errors import UsageError
    from compiler.lmi.definitions import emit

    text = emit(prepared.deployment, form, prepared.region)
    if output is None:
        typer.echo(text, nl=False)
        return
    try:
        output.write_text(text)
    except OSError as error:
        raise UsageError(f"cannot write {output}: {error.strerror}", hint="name a writable file") from None
    show({"output": str(output)}, str(output), as_json=as_json)


EndpointName = Annotated[str, typer.Argument(help="Name of the endpoint.", metavar="NAME")]
Region = Annotated[str, typer.Option(help="AWS region [default: the session's]")]


def status(name: EndpointName, region: Region = "", as_json: Json = False) -> None:
    """Print the state of a SageMaker endpoint. Exits with 0 only if all of it is in service."""
    from compiler.deploy.endpoints import endpoint_state
    from compiler.report import table

    state = endpoint_state(name, region)
    facts = state.to_json()
    rows = [(key, str(value)) for key, value in facts.items() if value and key != "components"]
    rows += [
        ("component", f"{one}, {text}, {running} of {wanted} copies") for one, text, running, wanted in state.components
    ]
    show(facts, table(rows), as_json=as_json)
    if not state.serves:
        raise typer.Exit(1)


def undeploy(
    name: EndpointName,
    region: Region = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only print what would be deleted.")] = False,
    as_json: Json = False,
) -> None:
    """Delete a SageMaker endpoint, its configurations and models."""
    from compiler.deploy.endpoints import resources
    from compiler.deploy.endpoints import undeploy as run

    with reporting(as_json=as_json) as report:
        found = resources(name, region) if dry_run else run(name, report, region)
    show([{"kind": kind, "name": one} for kind, one in found], "\n".join(f"{k} {n}" for k, n in found), as_json=as_json)
