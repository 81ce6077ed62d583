"""Files of a model, and which of them a conversion needs.

Code that a model brings along is never fetched nor run.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Literal

from compiler.errors import OnlyPickledError
from compiler.model.ends import ends_in
from compiler.storage.checkpoints.checkpoint import (
    Checkpoint,
    from_headers,
    open_checkpoint,
    read_config,
    read_object,
)
from compiler.storage.checkpoints.diagnosis import diagnosed
from compiler.storage.checkpoints.index import (
    FORMS,
    NO_DIFFERENCE,
    PICKLED,
    PICKLED_INDEX,
    SINGLE,
    IndexDifference,
    form_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
    from pathlib import Path

    from compiler.storage.checkpoints.index import WeightMap
    from compiler.storage.files.digest import Digest

Files = Literal["all", "metadata"]
"""Extent of a fetch: all files that a conversion needs, or only those that a plan needs."""


@dataclass(frozen=True)
class Asking:
    """How the hub is asked. `seconds`: time limit of the first request; None: huggingface_hub's. `offline`: not at all,
    models come from the cache alone.
    """

    seconds: float | None = None
    offline: bool = False


PATIENT = Asking()

CONFIGS = ("config.json", "generation_config.json")
QUANTIZATIONS = ("quantize_config.json", "quant_config.json", "hf_quant_config.json")
"""Files that say how a checkpoint is quantized, where config.json does not."""
TEXT = (
    "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "vocab.txt", "merges.txt", "spiece.model", "sentencepiece.bpe.model",
    "*.tiktoken", "tekken.json", "chat_template.json", "chat_template.jinja",
)  # fmt: skip
"""Files of tokenizers and chat templates, by the names that transformers gives them."""


@dataclass(frozen=True)
class Headers:
    """Headers of a remote model: `{tensor: (dtype, shape)}`, and the difference of its index from them."""

    tensors: Mapping[str, tuple[str, tuple[int, ...]]]
    difference: IndexDifference = NO_DIFFERENCE


@dataclass(frozen=True)
class WeightFiles:
    """Files that hold a model's weights: its index ("" without one), the index's map, and all names, index included and
    last. `missing`: files that the index names and nobody has.
    """

    index: str
    weight_map: WeightMap | None
    names: tuple[str, ...]
    missing: tuple[str, ...] = ()

    @property
    def shards(self) -> tuple[str, ...]:
        """The files with tensors."""
        return tuple(name for name in self.names if name != self.index)

    @property
    def problems(self) -> list[str]:
        """Lines on the missing files."""
        return [f"{name}: missing, {self.index} expects it" for name in self.missing]

    @property
    def pickled(self) -> bool:
        """Whether the files are pickles."""
        return self.names[-1] in (PICKLED, PICKLED_INDEX)


@dataclass(frozen=True)
class ResolvedSource:
    """A model on this machine.

    `folder` has config.json and the tokenizer's files, and the weights unless only metadata was asked for.
    `repo_id` and `commit` (40 hexadecimal digits): set for models of the hub. `uri` and `listing` (digest of names,
    sizes and ETags, which identifies the content of a prefix): set for models in S3. `names`: all files of a
    remote model that a conversion needs. `headers`: set where only metadata was fetched. `notes`: see Checkpoint.
    """

    folder: Path
    repo_id: str | None = None
    commit: str | None = None
    uri: str | None = None
    listing: Digest | None = None
    names: tuple[str, ...] = ()
    headers: Headers | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()

    def checkpoint(self, scratch: Path | None = None) -> Checkpoint:
        """Open the model's checkpoint (see open_checkpoint). Raises CheckpointError.

        generation_config.json is read with it: whatever serves the model will need it.
        """
        found = (
            open_checkpoint(self.folder, scratch)
            if self.headers is None
            else from_headers(read_config(self.folder), self.headers.tensors, self.folder, self.headers.difference)
        )
        for name, config in (("config.json", found.config), *_generation_config(self.folder)):
            ends_in(config, str(self.folder / name))
        return replace(found, notes=tuple(dict.fromkeys((*self.notes, *found.notes))))


def _generation_config(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and content of generation_config.json, if the model has one."""
    path = folder / "generation_config.json"
    if path.exists():
        yield path.name, read_object(path, hint="download the file again, or remove it")


def weight_files(names: Collection[str], where: str, read_index: Callable[[str], WeightMap]) -> WeightFiles:
    """The files that hold the weights of a model with the files `names` in its top folder: those that its index names;
    pickles only if there is nothing else. `read_index`: map of the index of a name.

    Duplicates in other formats (`consolidated.*`, `original/`, TensorFlow, GGUF) are left out. Raises CheckpointError
    about `where` if the model has none of FORMS.
    """
    form = form_of(names)
    if not form:
        hint = f"expected one of {', '.join(FORMS)}; choose another revision"
        raise diagnosed("weights", where, names, None, hint)
    if form in (SINGLE, PICKLED):
        return WeightFiles("", None, (form,))
    weight_map = read_index(form)
    listed = sorted(set(weight_map.values()))
    missing = tuple(name for name in listed if name not in names)
    return WeightFiles(form, weight_map, (*(name for name in listed if name in names), form), missing)


def needed(names: Iterable[str], weights: WeightFiles) -> tuple[str, ...]:
    """The files of a model's top folder that a conversion needs, sorted: small ones and weights, never code."""
    small = (name for name in names if any(fnmatchcase(name, pattern) for pattern in (*CONFIGS, *QUANTIZATIONS, *TEXT)))
    return tuple(sorted({*small, *weights.names}))


def only_pickled(weights: WeightFiles, where: str) -> OnlyPickledError:
    """Error of a plan whose tensors are in pickles, which have no header that could be read by itself."""
    return OnlyPickledError(
        f"no safetensors files in {where}, so its tensors are known only after a download of {len(weights.shards)} "
        "pickled file(s)",
        hint="run `convert` or `build`, which download and convert it; or choose another revision",
    )
