"""Models of the Hugging Face hub, through huggingface_hub and its cache."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, cast

from compiler.errors import CheckpointError, DiskFullError, SourceError
from compiler.storage.checkpoints.diagnosis import diagnosed, notes_on
from compiler.storage.checkpoints.index import (
    INDEX,
    PICKLED_INDEX,
    form_of,
    merge_headers,
    raise_problems,
    read_weight_map,
)
from compiler.storage.checkpoints.source import (
    PATIENT,
    Asking,
    Files,
    Headers,
    ResolvedSource,
    WeightFiles,
    needed,
    only_pickled,
    weight_files,
)

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_CONNECTIONS = 8


def fetch(repo_id: str, revision: str | None, files: Files, how: Asking = PATIENT) -> ResolvedSource:
    """Fetch a model of the hub (see `resolve.resolve`), at the commit that `revision` points to now."""
    import huggingface_hub
    from huggingface_hub import errors

    api = huggingface_hub.HfApi()
    try:
        if how.offline:
            raise errors.OfflineModeIsEnabled("--offline")
        info = api.model_info(repo_id, revision=revision, timeout=how.seconds)
    except errors.GatedRepoError:
        raise SourceError(
            f"`{repo_id}` is gated: its owner has to grant access, and the token in use has none",
            hint=f"ask for access on the model's page ({api.endpoint}/{repo_id}), then set HF_TOKEN "
            "or run `hf auth login`",
        ) from None
    except errors.RevisionNotFoundError:
        raise SourceError(
            f"`{repo_id}` has no revision `{revision}`",
            hint="pass a branch, a tag or a commit hash as `--revision`",
        ) from None
    except errors.RepositoryNotFoundError:
        raise SourceError(
            f"`{repo_id}` does not exist on {api.endpoint}, or is private and the token in use cannot see it",
            hint="check the spelling; for a private model set HF_TOKEN or run `hf auth login`",
        ) from None
    except errors.HFValidationError as error:
        raise SourceError(
            f"`{repo_id}` is not a Hugging Face id: {error}", hint="pass an id of the form `owner/name`"
        ) from None
    except _failures() as error:
        return _cached(repo_id, revision, error)
    if info.sha is None:
        raise SourceError(
            f"expected a commit for `{repo_id}`, found none in the answer of {api.endpoint}", hint="check HF_ENDPOINT"
        )
    commit = info.sha
    every = {sibling.rfilename for sibling in info.siblings or []}
    where = f"`{repo_id}` at {commit}"
    if "config.json" not in every:
        raise diagnosed("config.json", where, every, None, "use a repository in the format of transformers")
    here = _snapshot(repo_id, commit)
    weights = weight_files(every, where, lambda index: read_weight_map(_index(repo_id, commit, index)))
    raise_problems(weights.problems, where, "choose another revision")
    names, notes = needed(every, weights), notes_on(every)
    if here is not None and all((here / name).is_file() for name in names):
        _remember(here, revision or "main", commit)
        return ResolvedSource(here, repo_id, commit, names=names, notes=notes)
    if files == "metadata" and weights.pickled:
        raise only_pickled(weights, where)
    wanted = [name for name in names if files == "all" or name not in weights.shards]
    try:
        folder = Path(huggingface_hub.snapshot_download(repo_id, revision=commit, allow_patterns=wanted))
    except _failures() as error:
        _unreachable(repo_id, error)
    _remember(folder, revision or "main", commit)
    missing = [name for name in wanted if not (folder / name).is_file()]
    if missing:
        raise SourceError(f"`{repo_id}`: {', '.join(missing)} did not arrive", hint="run the same command again")
    headers = _headers(api, repo_id, commit, weights) if files == "metadata" else None
    return ResolvedSource(folder, repo_id, commit, names=names, headers=headers, notes=notes)


def _index(repo_id: str, commit: str, name: str) -> Path:
    """The index of a model, fetched by itself: it names the files to fetch."""
    import huggingface_hub

    try:
        return Path(huggingface_hub.hf_hub_download(repo_id, name, revision=commit))
    except _failures() as error:
        _unreachable(repo_id, error)


def _failures() -> tuple[type[Exception], ...]:
    """Exceptions of a failed request: the roots of HfHubHTTPError are OSError and that of the HTTP library in use."""
    from huggingface_hub.errors import HfHubHTTPError

    return cast("tuple[type[Exception], ...]", HfHubHTTPError.__bases__)


def _headers(api: HfApi, repo_id: str, commit: str, weights: WeightFiles) -> Headers:
    """Dtype and shape of each tensor, from the first bytes of each safetensors file."""
    from huggingface_hub.errors import SafetensorsParsingError

    def read(shard: str) -> dict[str, tuple[str, tuple[int, ...]]]:
        header = api.parse_safetensors_file_metadata(repo_id, shard, revision=commit)
        return {name: (str(info.dtype), tuple(info.shape)) for name, info in header.tensors.items()}

    try:
        with ThreadPoolExecutor(_CONNECTIONS) as pool:
            headers = dict(zip(weights.shards, pool.map(read, weights.shards), strict=True))
    except SafetensorsParsingError as error:
        raise CheckpointError(f"`{repo_id}`: {error}", hint="choose another revision") from None
    except _failures() as error:
        _unreachable(repo_id, error)
    merged, difference = merge_headers(headers, weights.weight_map)
    return Headers({name: entry for name, (_, entry) in merged.items()}, difference)


def _snapshot(repo_id: str, revision: str) -> Path | None:
    """The cached snapshot, complete or not, without a request to the hub."""
    from huggingface_hub import constants, try_to_load_from_cache

    cache = constants.HF_HUB_CACHE
    config = try_to_load_from_cache(repo_id, "config.json", revision=revision, cache_dir=cache)
    return Path(config).parent if isinstance(config, str) else None


def _cached(repo_id: str, revision: str | None, error: Exception) -> ResolvedSource:
    """The cached snapshot of a model while the hub is unreachable. Its weights may be incomplete."""
    folder = _snapshot(repo_id, revision or "main")
    if folder is None:
        _unreachable(repo_id, error)
    every = [path.name for path in folder.iterdir() if path.exists()]
    form = form_of(every)
    weight_map = read_weight_map(folder / form) if form in (INDEX, PICKLED_INDEX) else None
    shards = sorted({*(weight_map.values() if weight_map else [form])} & set(every))
    if not shards:
        _unreachable(repo_id, error)
    weights = WeightFiles(form if weight_map else "", weight_map, (*shards, form))
    return ResolvedSource(folder, repo_id, folder.name, names=needed(every, weights), notes=notes_on(every))


def _unreachable(repo_id: str, error: Exception) -> NoReturn:
    from huggingface_hub import constants
    from huggingface_hub.errors import OfflineModeIsEnabled

    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        raise DiskFullError(
            f"no space for `{repo_id}` in {constants.HF_HUB_CACHE}: {error}",
            hint="free space there, or set HF_HOME to a folder on another disk",
        ) from error
    if constants.HF_HUB_OFFLINE or isinstance(error, OfflineModeIsEnabled):
        raise SourceError(
            f"`{repo_id}` is not in the cache ({constants.HF_HUB_CACHE}), and the hub is not asked (offline)",
            hint="leave out `--offline` and HF_HUB_OFFLINE, or pass a local folder as `--model`",
        ) from error
    raise SourceError(
        f"`{repo_id}` could not be fetched from {constants.ENDPOINT}: {type(error).__name__}: {error}",
        hint="check the network, HF_ENDPOINT and HF_TOKEN, and run the same command again (complete files are kept)",
    ) from error


def _remember(folder: Path, revision: str, commit: str) -> None:
    """Note the commit of a branch or tag in the cache of huggingface_hub, for use without network.

    Layout: REPO/refs/REVISION holds the commit, REPO/snapshots/COMMIT the files (huggingface_hub's cache
    guide).
    """
    if revision == commit:
        return
    reference = folder.parent.parent / "refs" / revision
    if not reference.exists() or reference.read_text() != commit:
        reference.parent.mkdir(parents=True, exist_ok=True)
        reference.write_text(commit)
