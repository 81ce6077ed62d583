"""Deployment to SageMaker: deploy."""

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
    """Create a SageMaker endpoint; first check instance type and image."""
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
