"""Where a model comes from: a folder, a Hugging Face id or an `s3://` prefix; each ends as a folder on this
machine.

Of a remote model only the files that a conversion needs are fetched (`needed`), and for a plan no weights at
all: the headers of the safetensors files are read by ranged requests. Code that a model brings along is never
fetched nor run.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from compiler.errors import SourceError, UsageError
from compiler.storage.checkpoints.checkpoint import (
    INDEX,
    PICKLED,
    PICKLED_INDEX,
    SINGLE,
    Checkpoint,
    from_headers,
    open_checkpoint,
    read_config,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from compiler.storage.files.digest import Digest

Files = Literal["all", "metadata"]
"""What to fetch: everything that a conversion needs, or only what a plan needs."""

CONFIGS = ("config.json", "generation_config.json")
TEXT = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model",
    "*.tiktoken", "chat_template.json", "chat_template.jinja",
)  # fmt: skip
"""Files of tokenizers and chat templates, by the names that transformers gives them."""

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")

ACCEPTED = (
    "`--model` takes a name that `lmi-compile models` lists, a Hugging Face id (`owner/name`), "
    "a local folder, or an `s3://bucket/prefix`"
)


@dataclass(frozen=True)
class ResolvedSource:
    """A model on this machine.

    `folder` has config.json and the tokenizer's files, and the weights unless only metadata was asked for.
    `repo_id` and `commit` (40 hexadecimal digits) for models of the hub, `uri` and `listing` (digest of names, sizes
    and ETags: what tells one content of a prefix from another) for those of S3. `names` are all the files that a
    conversion needs. `headers`: where only metadata was fetched, `{tensor: (dtype, shape)}`.
    """

    folder: Path
    repo_id: str | None = None
    commit: str | None = None
    uri: str | None = None
    listing: Digest | None = None
    names: tuple[str, ...] = ()
    headers: dict[str, tuple[str, tuple[int, ...]]] | None = field(default=None, repr=False)

    def checkpoint(self, scratch: Path | None = None) -> Checkpoint:
        """Open it (see open_checkpoint). Raises CheckpointError."""
        if self.headers is not None:
            return from_headers(read_config(self.folder), self.headers, self.folder)
        return open_checkpoint(self.folder, scratch)


def resolve(
    model: str,
    revision: str | None = None,
    *,
    cache: Path,
    files: Files = "all",
    known: Sequence[str] = (),
) -> ResolvedSource:
    """Find `model` and fetch what is not here yet.

    A Hugging Face id goes through the Hugging Face cache, so that models downloaded before are found;
    HF_HOME, HF_TOKEN, HF_ENDPOINT and HF_HUB_OFFLINE are honoured. What comes from S3 (credentials and
    AWS_ENDPOINT_URL as boto3 finds them) goes into the folder `cache`. `known` are the short names to suggest
    where `model` is none of the accepted forms.

    Raises UsageError (not one of the accepted forms), SourceError (not found, no access, not reachable),
    CheckpointError, DiskFullError.
    """
    if revision is not None and (model.startswith("s3://") or Path(model).expanduser().exists()):
        raise UsageError(
            f"`--revision {revision}` was given for `{model}`, which has no revisions",
            hint="leave `--revision` away, or pass a Hugging Face id as `--model`",
        )
    if model.startswith("s3://"):
        from compiler.storage.checkpoints.s3 import fetch

        return fetch(model, cache, files)
    folder = Path(model).expanduser()
    if folder.is_dir():
        found = tuple(sorted(path.name for path in folder.iterdir() if path.is_file()))
        return ResolvedSource(folder.absolute(), names=needed(found))
    if folder.is_file():
        raise UsageError(f"`{model}` is a file, expected a folder", hint=f"pass `--model {folder.parent}`")
    if model.startswith(("/", "./", "../", "~")) or model.endswith("/"):
        raise SourceError(f"no such folder: {model}", hint=ACCEPTED)
    if _REPO_ID.fullmatch(model):
        from compiler.storage.checkpoints.hub import fetch as fetch_hub

        return fetch_hub(model, revision, files)
    near = difflib.get_close_matches(model, known, n=3, cutoff=0.5)
    raise UsageError(
        f"`{model}` is neither a folder nor a known model",
        hint=(f"did you mean {' or '.join(f'`{name}`' for name in near)}? " if near else "") + ACCEPTED,
    )


def needed(names: Iterable[str]) -> tuple[str, ...]:
    """The files of a model's top folder that a conversion needs, sorted; pickles only where there is nothing
    else.

    Duplicates in other formats (`consolidated.*`, `original/`, TensorFlow, GGUF) and `*.py` are left out.
    """
    present = set(names)
    patterns = [*CONFIGS, *TEXT]
    if SINGLE in present:
        patterns += [SINGLE]
    elif INDEX in present:
        patterns += [INDEX, "model-*.safetensors", "model.safetensors-*"]
    elif PICKLED in present:
        patterns += [PICKLED]
    else:
        patterns += [PICKLED_INDEX, "pytorch_model-*.bin"]
    return tuple(sorted(name for name in present if any(fnmatchcase(name, pattern) for pattern in patterns)))


def is_weights(name: str) -> bool:
    """Whether a file of `needed` holds tensors (an index does not)."""
    return name.endswith(".bin") or (".safetensors" in name and not name.endswith(".json"))
