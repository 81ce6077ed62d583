"""Digest of a model's source, for cache keys and manifests."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

from compiler.report import amount
from compiler.storage.files.digest import digest_json

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compiler.model.config import ModelConfig
    from compiler.model.lazy import Lazy
    from compiler.model.roles import TensorId
    from compiler.report import Report
    from compiler.storage.cache.stages import StageCache
    from compiler.storage.checkpoints.checkpoint import Checkpoint
    from compiler.storage.checkpoints.source import ResolvedSource


@dataclass(frozen=True)
class Source:
    """A model's weights by their roles. `digest`: `source_digest` of the bytes in `checkpoint`."""

    config: ModelConfig
    tensors: Mapping[TensorId, Lazy]
    checkpoint: Checkpoint
    digest: str


def source_digest(cache: StageCache, report: Report, source: ResolvedSource, checkpoint: Checkpoint) -> str:
    """Digest of the commit of a hub's model, of the listing of an S3 prefix, else of the digests of config.json and
    weights.
    """
    if source.repo_id is not None and source.commit is not None:
        return digest_json({"repo_id": source.repo_id, "commit": source.commit})
    if source.listing is not None:
        return source.listing
    declared = [checkpoint.declared] if checkpoint.declared else []
    files = [checkpoint.folder / "config.json", *declared, *checkpoint.files]
    sizes = [path.stat().st_size for path in files]
    report.begin("digest")
    digests: dict[str, str] = {}
    with ThreadPoolExecutor(2, "digest") as pool:
        done = 0
        for path, size, digest in zip(files, sizes, pool.map(cache.digest, files), strict=True):
            done += size
            digests[path.name] = digest
            report.progress(done, sum(sizes), "bytes")
    report.end(f"{len(files)} source files, {amount(sum(sizes), 'bytes')}")
    return digest_json(digests)
