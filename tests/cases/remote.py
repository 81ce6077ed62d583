"""Checkpoints on a hub and in S3, through the real clients, each command in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cases.case import case
from tests.cases.files import sharded, write_index

if TYPE_CHECKING:
    from collections.abc import Mapping

NAMES = ("pytorch_model-00001.safetensors", "the rest.bin")
"""Shards that are not called `model-*`."""


def run_alone(environment: Mapping[str, str], folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line with a cache in `folder`, and settings of the machine's user replaced."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "AWS_"))}
    return subprocess.run(
        [sys.executable, "-m", "compiler", *arguments],
        env={**clean, **environment, "LMI_COMPILE_CACHE": str(folder / "cache")},
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )


def _taken(environment: Mapping[str, str], folder: Path, model: str) -> None:
    """Check that a plan and a conversion of `model` succeed."""
    for arguments in (("plan",), ("convert", "--output", str(folder / "out"))):
        ran = run_alone(environment, folder, *arguments, "--model", model)
        assert ran.returncode == 0, f"{arguments[0]}: expected exit code 0, found {ran.returncode}: {ran.stderr}"


@case(56, "shards with other names, on a hub")
def hub_shards(folder: Path) -> None:
    """Fetched as the index names them; a file that the repository lacks is named before any weight is fetched."""
    from tests import hub

    index = sharded(folder / "model", NAMES)
    sharded(folder / "less", NAMES)
    write_index(folder / "less", {**index, "model.norm.weight": "nobody has it.safetensors"})
    with hub.serve() as server:
        for name in ("model", "less"):
            server.add(f"org/{name}", folder / name)
        environment = server.environment(folder / "home")
        _taken(environment, folder, "org/model")
        ran = run_alone(environment, folder, "convert", "--output", str(folder / "no"), "--model", "org/less")
    assert ran.returncode == 3, f"expected exit code 3, found {ran.returncode}: {ran.stderr}"
    assert "nobody has it.safetensors: missing" in ran.stderr, ran.stderr


@case(57, "shards with other names, in S3")
def s3_shards(folder: Path) -> None:
    """Fetched as the index names them."""
    import boto3

    from benchmarks.testbed import servers

    sharded(folder / "model", NAMES)
    with ExitStack() as stack:
        endpoint = stack.enter_context(servers.moto())
        environment = servers.environment(endpoint, folder)
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=servers.KEY,
            aws_secret_access_key=servers.SECRET,
            region_name="us-east-1",
        )
        stack.callback(client.close)
        client.create_bucket(Bucket="models")
        for file in (folder / "model").iterdir():
            client.upload_file(str(file), "models", f"pt/{file.name}")
        _taken(environment, folder, "s3://models/pt/")
