"""Put an artifact to work: deploy."""

from __future__ import annotations

from typing import Annotated

import typer

from compiler.cli.options import Json
from compiler.cli.output import reporting, show


def deploy(
    artifact: Annotated[str, typer.Argument(help="s3://STORE/NAME@TAG, or s3://PREFIX/.", metavar="ARTIFACT")],
    instance_type: Annotated[str, typer.Option(help="Such as ml.g5.12xlarge.")],
    role: Annotated[str, typer.Option(help="ARN of the role that reads the prefix.")],
    image: Annotated[str, typer.Option(help="Tag of an LMI image, or a whole name [default: the artifact's]")] = "",
    name: Annotated[str, typer.Option(help="Of the endpoint [default: the artifact's]")] = "",
    region: Annotated[str, typer.Option(help="[default: the session's]")] = "",
    count: Annotated[int, typer.Option(help="Instances.")] = 1,
    env: Annotated[list[str] | None, typer.Option(help="Of the container; may be repeated.", metavar="K=V")] = None,
    startup_seconds: Annotated[int, typer.Option(help="Until the container answers.")] = 1800,
    download_seconds: Annotated[int, typer.Option(help="Until the artifact is there.")] = 3600,
    ami: Annotated[str, typer.Option(help="Of the instance, for a newer GPU driver.")] = "",
    network: Annotated[bool, typer.Option("--network", help="The container may use the network.")] = False,
    wait: Annotated[bool, typer.Option(help="See it start.")] = True,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check, and print the requests only.")] = False,
    as_json: Json = False,
) -> None:
    """Make a SageMaker endpoint of an artifact, once it is known to fit instance and image."""
    from compiler.deploy.sagemaker import DeployRequest, prepare, requests_of
    from compiler.deploy.sagemaker import deploy as run
    from compiler.errors import UsageError

    pairs = [pair.partition("=") for pair in env or []]
    if wrong := [key for key, equals, _ in pairs if not equals]:
        raise UsageError(f"`--env` is KEY=VALUE; found `{wrong[0]}`")
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
