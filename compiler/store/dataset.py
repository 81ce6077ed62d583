"""A text of the Hugging Face hub: one file of a data set, through huggingface_hub and its cache."""

from __future__ import annotations

import re
from pathlib import Path

from compiler.errors import CalibrationError

_NAME = re.compile(r"(?P<id>[\w.-]+/[\w.-]+)(?::(?P<file>.+))?")
SUFFIXES = (".jsonl", ".txt")
"""What can be read without a library for tables."""


def is_dataset(name: str) -> bool:
    """Whether it is spelled `owner/name` or `owner/name:file`."""
    return _NAME.fullmatch(name) is not None


def dataset_file(name: str) -> Path:
    """The file of a data set `owner/name:file`; without a file its one .jsonl or .txt, or the one of them with `train`
    in its name. At the commit that its branch `main` is at. Raises CalibrationError.
    """
    import huggingface_hub
    from huggingface_hub import errors

    match = _NAME.fullmatch(name)
    assert match is not None
    repo_id, file, api = match["id"], match["file"], huggingface_hub.HfApi()
    try:
        info = api.dataset_info(repo_id)
        names = sorted(sibling.rfilename for sibling in info.siblings or [])
        chosen = file if file in names else _chosen(name, repo_id, file, names)
        return Path(huggingface_hub.hf_hub_download(repo_id, chosen, repo_type="dataset", revision=info.sha))
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


def _chosen(name: str, repo_id: str, file: str | None, names: list[str]) -> str:
    texts = [one for one in names if one.endswith(SUFFIXES)]
    found = texts if len(texts) == 1 else [one for one in texts if "train" in one.rpartition("/")[2]]
    if file is None and len(found) == 1:
        return found[0]
    has = f"it has {', '.join(texts[:10])}" if texts else f"it has no {' or '.join(SUFFIXES)}"
    raise CalibrationError(
        f"`--calibration {name}` does not say which file: {has}",
        hint=f"pass `{repo_id}:FILE`" if texts else "save what it has as a .jsonl file with `text`, and pass that",
    )
