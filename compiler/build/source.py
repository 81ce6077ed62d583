"""What stands for a model's source in the keys of stages."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from compiler.report import amount
from compiler.storage.files.digest import digest_json

if TYPE_CHECKING:
    from compiler.report import Report
    from compiler.storage.cache.stages import StageCache
    from compiler.storage.checkpoints.checkpoint import Checkpoint
    from compiler.storage.checkpoints.source import ResolvedSource


def source_digest(cache: StageCache, report: Report, source: ResolvedSource, checkpoint: Checkpoint) -> str:
    """What stands for the source in keys: the commit of a hub's model, the listing of an S3 prefix, else the digests of
    config.json and weights.
    """
    if source.repo_id is not None and source.commit is not None:
        return digest_json({"repo_id": source.repo_id, "commit": source.commit})
    if source.listing is not None:
        return source.listing
    files = [checkpoint.folder / "config.json", *checkpoint.files]
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
