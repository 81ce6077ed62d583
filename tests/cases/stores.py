"""Names of models in S3 and on a hub, and of artifacts, as users spell them."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING

from tests.cases.case import case
from tests.cases.checkpoints import write
from tests.cases.remote import run_alone
from tests.cases.runs import refused, taken
from tests.command import Ran, command

if TYPE_CHECKING:
    from pathlib import Path

PREFIXES = (
    "with blanks/in it/",
    "modèle/Zürich/模型/",
    "a+b&c=d/e?f#g/%20h%2F/",
    "two//slashes/",
    "no-slash",
    "marked/",
)
"""Prefixes of models; a folder marker, an empty object, is beside the files of the last one."""


@case(107, "S3 keys with blanks, other alphabets, characters of URLs, two slashes, no slash, a folder marker")
def s3_keys(folder: Path) -> None:
    """A prefix is taken as it is, and nothing in it is decoded."""
    import boto3

    from benchmarks.testbed import servers

    model = write(folder / "model")
    with ExitStack() as stack:
        endpoint = stack.enter_context(servers.moto())
        client = boto3.client(
            "s3",
            endpoint_url=endpoint,
            aws_access_key_id=servers.KEY,
            aws_secret_access_key=servers.SECRET,
            region_name="us-east-1",
        )
        stack.callback(client.close)
        client.create_bucket(Bucket="keys")
        client.put_object(Bucket="keys", Key=PREFIXES[-1], Body=b"")
        for prefix in PREFIXES:
            for file in model.iterdir():
                client.upload_file(str(file), "keys", f"{prefix.removesuffix('/')}/{file.name}")
        environment = servers.environment(endpoint, folder)
        for prefix in PREFIXES:
            uri = f"s3://keys/{prefix}"
            taken(command("plan", "--model", uri, cache=folder / "cache", environment=environment), "LlamaForCausalLM")
        missing = command("plan", "--model", "s3://keys/with+blanks/", cache=folder / "cache", environment=environment)
        refused(missing, 3, "config.json", "s3://keys/with+blanks/")


@case(108, "names on a hub: missing, with odd characters, URLs, `@main`")
def hub_names(folder: Path) -> None:
    """Each is refused before anything is fetched, with the form that is taken."""
    from tests import hub

    write(folder / "model")
    with hub.serve() as server:
        server.add("org/model", folder / "model")
        environment = server.environment(folder / "home")
        for name, code, words in (
            ("org/missing", 3, "org/missing"),
            (f"{server.url}/org/model", 2, "org/model"),
            ("https://huggingface.co/org/model", 2, "org/model"),
            ("org/model@main", 2, "org/model@main"),
            ("org/mo del", 2, "org/mo del"),
            ("org/model/extra", 2, "org/model/extra"),
            ("org/", 3, "no such folder"),
            ("", 2, "model"),
        ):
            ran = run_alone(environment, folder, "plan", "--model", name)
            refused(Ran(ran.returncode, ran.stdout, ran.stderr), code, words)
        good = run_alone(environment, folder, "plan", "--model", "org/model", "--revision", "main")
        assert good.returncode == 0, good.stderr


@case(109, "artifacts whose names have blanks or other alphabets")
def artifact_names(folder: Path) -> None:
    """A store takes names that every tool takes, and says which."""
    from benchmarks.testbed.artifacts import manifest
    from benchmarks.testbed.artifacts import write as write_artifact

    for number, name in enumerate(("my model", "modèle", "模型", "a/b", "..")):
        artifact = folder / f"artifact{number}"
        artifact.mkdir()
        write_artifact(artifact, manifest(toolchain={}).model_copy(update={"name": name}))
        pushed = command("push", artifact, f"{folder}/store/", cache=folder / "cache")
        refused(pushed, 2, f"`{name}`", "at most 128 letters, digits")
