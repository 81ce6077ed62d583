"""Models below an `s3://bucket/prefix`, through boto3.

Files go into a folder that is named after their ETags and sizes, so that changed objects are fetched anew and
unchanged ones never again. A file has the name NAME.part until it is whole.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

from compiler.errors import CheckpointError, SourceError, UsageError
from compiler.store.checkpoint import INDEX, SINGLE, merge_headers, read_weight_map
from compiler.store.digest import digest_json
from compiler.store.header import Entry, HeaderError, header_length, parse_header
from compiler.store.source import Files, ResolvedSource, is_weights, needed
from compiler.store.writer import disk_full

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class _Object:
    key: str
    size: int
    etag: str


def fetch(uri: str, cache: Path, files: Files) -> ResolvedSource:
    """See `source.resolve`."""
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    prefix = prefix.rstrip("/") + "/" if prefix.strip("/") else ""
    if not bucket:
        raise UsageError(f"`{uri}` names no bucket", hint="expected `s3://bucket/prefix`")
    import boto3
    import botocore.exceptions
    from botocore.config import Config

    # Servers other than AWS's may lack the checksums that newer clients ask for by default.
    config = Config(response_checksum_validation="when_required", retries={"mode": "standard", "max_attempts": 5})
    try:
        client = boto3.Session().client("s3", config=config)
        objects = _list(client, bucket, prefix)
        names = needed(objects)
        if "config.json" not in names:
            raise CheckpointError(
                f"no config.json below {uri}, found {', '.join(sorted(objects)[:20]) or 'nothing'}",
                hint="the prefix has to be the folder of the checkpoint",
            )
        facts = [[name, objects[name].size, objects[name].etag] for name in names]
        folder = cache / "s3" / digest_json([bucket, prefix, facts])[7:39]
        folder.mkdir(parents=True, exist_ok=True)
        wanted = [name for name in names if files == "all" or not is_weights(name)]
        wanted = [name for name in wanted if not (folder / name).exists()]
        size, free = sum(objects[name].size for name in wanted), shutil.disk_usage(folder).free
        if size > free:
            raise disk_full(folder, size, free)
        for name in wanted:
            _download(client, bucket, objects[name], folder / name)
        headers = None
        if files == "metadata" and not all((folder / name).exists() for name in names):
            headers = _headers(client, bucket, objects, folder, uri)
    except botocore.exceptions.ClientError as error:
        _refused(uri, error)
    except botocore.exceptions.NoCredentialsError:
        raise SourceError(
            f"no credentials for {uri}",
            hint="set AWS_PROFILE, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ) from None
    except botocore.exceptions.BotoCoreError as error:
        raise SourceError(
            f"{uri} could not be read: {error}", hint="check the network, the region and AWS_ENDPOINT_URL"
        ) from error
    return ResolvedSource(folder, uri=uri, names=names, headers=headers)


def _refused(uri: str, error: Any) -> NoReturn:
    code = error.response.get("Error", {}).get("Code", "")
    hints = {
        "NoSuchBucket": "check the name of the bucket",
        "AccessDenied": "the credentials in use need s3:ListBucket and s3:GetObject there",
        "InvalidAccessKeyId": "check the credentials in use (AWS_PROFILE, AWS_ACCESS_KEY_ID)",
        "SignatureDoesNotMatch": "check the credentials in use (AWS_SECRET_ACCESS_KEY)",
        "ExpiredToken": "log in again",
    }
    raise SourceError(f"{uri}: {error}", hint=hints.get(code, "check the bucket, the credentials and the region"))


def _list(client: Any, bucket: str, prefix: str) -> dict[str, _Object]:
    """The objects directly below the prefix, by file name."""
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, Delimiter="/")
    return {
        item["Key"][len(prefix) :]: _Object(item["Key"], int(item["Size"]), item["ETag"])
        for page in pages
        for item in page.get("Contents", [])
    }


def _download(client: Any, bucket: str, item: _Object, target: Path) -> None:
    from boto3.s3.transfer import TransferConfig

    part = target.with_name(target.name + ".part")
    # The other transfer client of boto3 does not honour AWS_ENDPOINT_URL.
    options = TransferConfig(preferred_transfer_client="classic", multipart_chunksize=16 << 20)
    client.download_file(bucket, item.key, str(part), Config=options)
    size = part.stat().st_size
    if size != item.size:
        part.unlink()
        raise SourceError(
            f"s3://{bucket}/{item.key}: expected {item.size} bytes, {size} arrived",
            hint="run the same command again",
        )
    part.replace(target)


def _headers(
    client: Any, bucket: str, objects: dict[str, _Object], folder: Path, uri: str
) -> dict[str, tuple[str, tuple[int, ...]]]:
    """Names, dtypes and shapes from the first bytes of each safetensors file."""
    weight_map = None
    if SINGLE in objects:
        shards = [SINGLE]
    elif INDEX in objects:
        weight_map = read_weight_map(folder / INDEX)
        shards = sorted(set(weight_map.values()))
    else:
        raise CheckpointError(
            f"no safetensors files below {uri}, so its tensors are known only when all is downloaded",
            hint="`convert` and `build` download and convert pytorch_model.bin",
        )
    problems: list[str] = []
    headers: dict[str, dict[str, Entry]] = {}
    for shard in shards:
        if shard not in objects:
            problems.append(f"{shard}: missing, the index expects it")
            continue
        item = objects[shard]
        try:
            length = header_length(_range(client, bucket, item.key, 0, 8), item.size)
            headers[shard] = parse_header(_range(client, bucket, item.key, 8, length), item.size)
        except HeaderError as error:
            problems += [f"{shard}: {problem}" for problem in error.problems]
    merged = merge_headers(headers, weight_map, problems)
    if problems:
        raise CheckpointError(
            "\n".join([f"{len(problems)} problems below {uri}:", *(f"  {line}" for line in problems)]),
            hint="upload the files named above again",
        )
    return {name: (entry.dtype, entry.shape) for name, (_, entry) in merged.items()}


def _range(client: Any, bucket: str, key: str, start: int, count: int) -> bytes:
    answer = client.get_object(Bucket=bucket, Key=key, Range=f"bytes={start}-{start + count - 1}")
    data: bytes = answer["Body"].read()
    return data
