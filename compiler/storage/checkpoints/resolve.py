"""Resolve `--model`: a folder, a Hugging Face id or an `s3://` prefix becomes a folder on this machine.

Only the files of a remote model that a conversion needs are fetched (source.py), and for a plan no weights at all: the
headers of the safetensors files are read by ranged requests.
"""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.errors import SourceError, UsageError
from compiler.storage.checkpoints.source import PATIENT, ResolvedSource

if TYPE_CHECKING:
    from collections.abc import Sequence

    from compiler.storage.checkpoints.source import Asking, Files

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

_ACCEPTED = (
    "`--model` takes a name that `lmi-compile models` lists, a Hugging Face id (`owner/name`), "
    "a local folder, or an `s3://bucket/prefix`"
)


def resolve(
    model: str,
    revision: str | None = None,
    *,
    cache: Path,
    files: Files = "all",
    known: Sequence[str] = (),
    how: Asking = PATIENT,
) -> ResolvedSource:
    """Find a model and fetch the files that are not on this machine yet.

    A Hugging Face id goes through the Hugging Face cache, so that models downloaded before are found;
    HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE apply. Files from S3 (credentials and AWS_ENDPOINT_URL as
    boto3 finds them) go into the folder `cache`. `known`: short names to suggest where `model` has none of the
    accepted forms. `how`: how the hub is asked.

    Raises UsageError (not one of the accepted forms), SourceError (not found, no access, not reachable),
    CheckpointError, DiskFullError.
    """
    if not model.strip():
        # An unset variable of a shell would else be the current folder.
        raise UsageError(f"`--model` names a model; found `{model}`", hint=_ACCEPTED)
    if revision is not None and (model.startswith("s3://") or Path(model).expanduser().exists()):
        raise UsageError(
            f"`--revision {revision}` was given for `{model}`, which has no revisions",
            hint="leave out `--revision`, or pass a Hugging Face id as `--model`",
        )
    if model.startswith("s3://"):
        from compiler.storage.checkpoints import s3

        return s3.fetch(model, cache, files)
    folder = Path(model).expanduser()
    if folder.is_dir():
        return ResolvedSource(folder.absolute())
    if folder.is_file():
        raise UsageError(f"`{model}` is a file, expected a folder", hint=f"pass `--model {folder.parent}`")
    if model.startswith(("/", "./", "../", "~")) or model.endswith("/"):
        raise SourceError(f"no such folder: {model}", hint=_ACCEPTED)
    if _REPO_ID.fullmatch(model):
        from compiler.storage.checkpoints import hub

        return hub.fetch(model, revision, files, how)
    near = difflib.get_close_matches(model, known, n=3, cutoff=0.5)
    raise UsageError(
        f"`{model}` is neither a folder nor a known model",
        hint=(f"did you mean {' or '.join(f'`{name}`' for name in near)}? " if near else "") + _ACCEPTED,
    )
