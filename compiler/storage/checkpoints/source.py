"""Files of a model, and which of them a conversion needs.

Code that a model brings along is never fetched nor run.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Literal

from compiler.errors import CheckpointError
from compiler.storage.checkpoints.checkpoint import (
    INDEX,
    PICKLED,
    PICKLED_INDEX,
    SINGLE,
    Checkpoint,
    from_headers,
    open_checkpoint,
    read_config,
    read_weight_map,
)

if TYPE_CHECKING:
    from collections.abc import Container, Iterable
    from pathlib import Path

    from compiler.storage.files.digest import Digest

Files = Literal["all", "metadata"]
"""Extent of a fetch: all files that a conversion needs, or only those that a plan needs."""

CONFIGS = ("config.json", "generation_config.json")
TEXT = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model",
    "*.tiktoken", "tekken.json", "chat_template.json", "chat_template.jinja",
)  # fmt: skip
"""Files of tokenizers and chat templates, by the names that transformers gives them."""


@dataclass(frozen=True)
class ResolvedSource:
    """A model on this machine.

    `folder` has config.json and the tokenizer's files, and the weights unless only metadata was asked for.
    `repo_id` and `commit` (40 hexadecimal digits): set for models of the hub. `uri` and `listing` (digest of names,
    sizes and ETags, which identifies the content of a prefix): set for models in S3. `names`: all files that a
    conversion needs. `headers`: `{tensor: (dtype, shape)}` where only metadata was fetched.
    """

    folder: Path
    repo_id: str | None = None
    commit: str | None = None
    uri: str | None = None
    listing: Digest | None = None
    names: tuple[str, ...] = ()
    headers: dict[str, tuple[str, tuple[int, ...]]] | None = field(default=None, repr=False)

    def checkpoint(self, scratch: Path | None = None) -> Checkpoint:
        """Open the model's checkpoint (see open_checkpoint). Raises CheckpointError."""
        if self.headers is not None:
            return from_headers(read_config(self.folder), self.headers, self.folder)
        return open_checkpoint(self.folder, scratch)


def needed(names: Iterable[str]) -> tuple[str, ...]:
    """The files of a model's top folder that a conversion needs, sorted; pickles only if there is nothing else.

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


def shards(folder: Path, names: Container[str], where: str) -> tuple[list[str], dict[str, str] | None]:
    """Safetensors files of a remote model with the files `names`, and the weight map of its index, if it has one.

    `folder` has the index. Raises CheckpointError about `where` if the model has no safetensors files.
    """
    if SINGLE in names:
        return [SINGLE], None
    if INDEX in names:
        weight_map = read_weight_map(folder / INDEX)
        return sorted(set(weight_map.values())), weight_map
    raise CheckpointError(
        f"no safetensors files in {where}, so its tensors are known only after a download of all files",
        hint="run `convert` or `build`, which download and convert it; or choose another revision",
    )


def is_weights(name: str) -> bool:
    """Whether a file that a conversion needs holds tensors (an index does not)."""
    return name.endswith(".bin") or (".safetensors" in name and not name.endswith(".json"))
