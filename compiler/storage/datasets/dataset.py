"""One file of a Hugging Face data set, through huggingface_hub and its cache."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.errors import CalibrationError
from compiler.storage.datasets.rows import SUFFIXES as TABLES
from compiler.storage.datasets.rows import is_table

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_NAME = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?::(?P<file>.+))?")
SUFFIXES = (*TABLES, ".txt")
_CONVERTED = "refs/convert/parquet"
"""Branch of the hub's own conversion of a data set: CONFIG/SPLIT/0000.parquet."""
_SHARD = re.compile(r"-\d{5}-of-\d{5}|(?<=/)\d{4}(?=\.parquet$)")


def is_dataset(name: str) -> bool:
    """Whether a name has the form `owner/name` or `owner/name:file`."""
    return _NAME.fullmatch(name) is not None


def dataset_file(name: str) -> tuple[str, Path]:
    """Fetch the file of a data set `owner/name[:file]`; its full name and its path on this machine.

    Without a file: the only readable one, or the only one with `train` in its path; for a table in several shards the
    first. Read at the commit that branch `main` points to; if nothing there is readable, from the branch of the hub's
    own conversion to parquet. Raises CalibrationError.
    """
    import huggingface_hub
    from huggingface_hub import errors

    match = _NAME.fullmatch(name)
    assert match is not None
    repo_id, file, api = match["id"], match["file"], huggingface_hub.HfApi()
    try:
        commit, names = _files(api, repo_id, "main")
        readable = [one for one in names if _readable(one)]
        if file not in names and (file is not None or not readable):
            converted_at, converted = _converted(api, repo_id)
            if file in converted or not readable:
                commit, names, readable = converted_at, converted, converted
        chosen = file if file in names else _chosen(name, repo_id, file, readable)
        path = huggingface_hub.hf_hub_download(repo_id, chosen, repo_type="dataset", revision=commit)
        return f"{repo_id}:{chosen}", Path(path)
    except errors.RepositoryNotFoundError:
        raise CalibrationError(
            f"`--calibration {name}` is neither a file nor a data set of {api.endpoint}",
            hint="check the spelling; for a private one set HF_TOKEN or run `hf auth login`",
        ) from None
    except OSError as error:  # huggingface_hub's own errors are of this kind too
        raise CalibrationError(
            f"the data set `{repo_id}` could not be fetched from {api.endpoint}: {type(error).__name__}: {error}",
            hint="check the network, HF_ENDPOINT and HF_TOKEN, or pass a file",
        ) from error


def _files(api: HfApi, repo_id: str, revision: str) -> tuple[str | None, list[str]]:
    """The commit that a branch points to, and its files."""
    info = api.dataset_info(repo_id, revision=revision)
    return info.sha, sorted(sibling.rfilename for sibling in info.siblings or [])


def _readable(name: str) -> bool:
    """Whether a file holds text of a data set, by its name; files that describe the data set do not."""
    return (is_table(name) or name.endswith(".txt")) and name.rpartition("/")[2] not in _NO_TEXTS


_NO_TEXTS = ("dataset_infos.json", "requirements.txt", "LICENSE.txt")


def _converted(api: HfApi, repo_id: str) -> tuple[str | None, list[str]]:
    """Commit and files of the hub's own conversion; none if there is no such branch."""
    from huggingface_hub.errors import RevisionNotFoundError

    try:
        return _files(api, repo_id, _CONVERTED)
    except RevisionNotFoundError:
        return None, []


def _chosen(name: str, repo_id: str, file: str | None, readable: list[str]) -> str:
    train = [one for one in readable if "train" in one]
    for found in (readable, train):
        if file is None and len({_SHARD.sub("", one) for one in found}) == 1:
            return found[0]
    has = f"it has {', '.join(readable[:10])}" if readable else f"it has no {', '.join(SUFFIXES)}"
    raise CalibrationError(
        f"`--calibration {name}` does not say which file: {has}{' ...' if len(readable) > 10 else ''}",
        hint=f"pass `{repo_id}:FILE`" if readable else "save its text as a .jsonl file with `text`, and pass that",
    )
