"""Models below an `s3://bucket/prefix`.

Files go into a folder named by a digest of their names, sizes and ETags: changed objects are fetched anew, unchanged
ones never again. An incomplete file has the name NAME.part (objects/download.py).
"""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from compiler.errors import SourceError, StoreError
from compiler.storage.checkpoints.diagnosis import diagnosed, notes_on
from compiler.storage.checkpoints.header import HeaderError, TensorEntry, header_length, parse_header
from compiler.storage.checkpoints.index import header_problems, merge_headers, parse_weight_map, raise_problems
from compiler.storage.checkpoints.source import (
    Files,
    Headers,
    ResolvedSource,
    WeightFiles,
    needed,
    only_pickled,
    weight_files,
)
from compiler.storage.files.digest import digest_json
from compiler.storage.files.disk import disk_full
from compiler.storage.files.folder import kept_folder
from compiler.storage.objects.download import Incoming, download_files
from compiler.storage.objects.flow import THREADS
from compiler.storage.objects.s3 import S3Store

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.storage.objects.types import Object

_UPLOAD = "upload the files named above again"


def fetch(uri: str, cache: Path, files: Files) -> ResolvedSource:
    """Fetch a model of S3 into the folder `cache` (see `resolve.resolve`)."""
    store = S3Store(uri)
    try:
        return _fetch(store, uri, cache, files)
    except StoreError as error:
        raise SourceError(error.message, hint=error.hint) from error


def _fetch(store: S3Store, uri: str, cache: Path, files: Files) -> ResolvedSource:
    _, found = store.children("")
    objects = {item.key: item for item in found}
    if "config.json" not in objects:
        raise diagnosed("config.json", uri, objects, None, "pass the prefix that is the folder of the checkpoint")
    weights = weight_files(
        objects, uri, lambda index: parse_weight_map(_range(store, index, 0, objects[index].size), index)
    )
    names = needed(objects, weights)
    facts = [[name, objects[name].size, objects[name].etag] for name in names]
    folder = cache / "s3" / digest_json([store.uri, facts])[7:39]
    whole = all((folder / name).exists() for name in names)
    if files == "metadata" and weights.pickled and not whole:
        raise only_pickled(weights, uri)
    if files == "all":
        raise_problems(weights.problems, uri, _UPLOAD)
    with kept_folder(folder):  # two processes that want the same model fetch it once
        wanted = [name for name in names if files == "all" or name not in weights.shards]
        wanted = [name for name in wanted if not (folder / name).exists()]
        size, free = sum(objects[name].size for name in wanted), shutil.disk_usage(folder).free
        if size > free:
            raise disk_full(folder, size, free)
        incoming = [Incoming(name, folder / name, None, objects[name].size) for name in wanted]
        download_files(store, incoming, threads=THREADS)
    headers = None
    if files == "metadata" and not whole:
        headers = _headers(store, objects, weights, uri)
    notes = notes_on(objects)
    return ResolvedSource(folder, uri=uri, listing=digest_json(facts), names=names, headers=headers, notes=notes)


def _headers(store: S3Store, objects: dict[str, Object], weights: WeightFiles, uri: str) -> Headers:
    """Dtype and shape of each tensor, from the first bytes of each safetensors file."""
    problems = weights.problems
    headers: dict[str, dict[str, TensorEntry]] = {}
    for shard in weights.shards:
        item = objects[shard]
        try:
            length = header_length(_range(store, item.key, 0, min(8, item.size)), item.size)
            headers[shard] = parse_header(_range(store, item.key, 8, length), item.size)
        except HeaderError as error:
            problems += header_problems(shard, error)
    raise_problems(problems, uri, _UPLOAD)
    merged, difference = merge_headers(headers, weights.weight_map)
    return Headers({name: (entry.dtype, entry.shape) for name, (_, entry) in merged.items()}, difference)


def _range(store: S3Store, key: str, start: int, count: int) -> bytes:
    data = bytearray(count)
    if count:
        store.read_into(key, start, memoryview(data))
    return bytes(data)
