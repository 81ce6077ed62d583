"""Deployment to SageMaker: deploy, status, undeploy."""

from __future__ import annotations

from typing import Annotated

import typer

from compiler.cli.options import Json
from compiler.cli.output import reporting, show


def deploy(
    artifact: Annotated[str, typer.Argument(help="s3://STORE/NAME@TAG, or s3://PREFIX/.", metavar="ARTIFACT")],
    instance_type: Annotated[str, typer.Option(help="Instance type, such as ml.g5.12xlarge.")],
    role: Annotated[str, typer.Option(help="ARN of the execution role; it can read the artifact.")],
    image: Annotated[str, typer.Option(help="Tag or full name of an LMI image [default: the artifact's]")] = "",
    name: Annotated[str, typer.Option(help="Name of the endpoint [default: the artifact's]")] = "",
    region: Annotated[str, typer.Option(help="AWS region [default: the session's]")] = "",
    count: Annotated[int, typer.Option(help="Number of instances.")] = 1,
    env: Annotated[
        list[str] | None, typer.Option(help="Environment of the container; may be repeated.", metavar="K=V")
    ] = None,
    startup_seconds: Annotated[int, typer.Option(help="Time limit for the container to become healthy.")] = 1800,
    download_seconds: Annotated[int, typer.Option(help="Time limit for the download of the artifact.")] = 3600,
    ami: Annotated[str, typer.Option(help="AMI version of the instance, for a newer GPU driver.")] = "",
    network: Annotated[bool, typer.Option("--network", help="Allow the container to use the network.")] = False,
    wait: Annotated[bool, typer.Option(help="Wait until the endpoint is in service.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, and only print the requests.")] = False,
    as_json: Json = False,
) -> None:
    """Create or update a SageMaker endpoint, after a preflight."""
    from compiler.deploy.sagemaker import DeployRequest, prepare, requests_of
    from compiler.deploy.sagemaker import deploy as run
    from compiler.errors import UsageError

    pairs = [pair.partition("=") for pair in env or []]
    if wrong := [key for key, equals, _ in pairs if not equals]:
        raise UsageError(f"`--env` takes KEY=VALUE; found `{wrong[0]}`", hint=f"`--env {wrong[0]}=VALUE`")
    request = DeployRequest(
        artifact,
        instance_type,
        role,
        image=image,
        name=name,
        region=region,
        count=count,
        environment={key: value for key, _, value in pairs},
        startup_seconds=startup_seconds,
        download_seconds=download_seconds,
        ami=ami,
        isolated=not network,
    )
    deployment = prepare(request)
    if dry_run:
        show(requests_of(deployment), "", as_json=True)
        return
    with reporting(as_json=as_json) as report:
        endpoint = run(deployment, report, region=region, wait=wait)
    show({"endpoint": endpoint, "model": deployment.model_name}, endpoint, as_json=as_json)


EndpointName = Annotated[str, typer.Argument(help="Name of the endpoint.", metavar="NAME")]
Region = Annotated[str, typer.Option(help="AWS region [default: the session's]")]


def status(name: EndpointName, region: Region = "", as_json: Json = False) -> None:
    """Print the state of a SageMaker endpoint. Exits with 0 only if it is in service."""
    from compiler.deploy.endpoints import endpoint_state
    from compiler.report import table

    state = endpoint_state(name, region)
    facts = state.to_json()
    show(facts, table([(key, str(value)) for key, value in facts.items() if value]), as_json=as_json)
    if state.status != "InService":
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
