"""Findings on a tokenizer at plan time: its ids against the model's vocabulary, and what transformers makes of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.errors import TokenizerError
from compiler.tokenizer.container import FORMS, container_form, release_of
from compiler.tokenizer.edges import Edges, edges_in
from compiler.tokenizer.load import load_tokenizer, vocabulary_in
from compiler.tokenizer.settings import read_settings
from compiler.tokenizer.vocabulary import vocabulary_names

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.tokenizer.settings import TokenizerSettings
    from compiler.tokenizer.tokenizer import Tokenizer

PROBE = "The harbor was quiet"
"""Text that is encoded to see what is put around a prompt."""
_NEWEST_4 = "4.53.3"
_SHOWN = 3


def tokenizer_notes(folder: Path, vocab: int, container: str | None) -> tuple[str, ...]:
    """Findings on the tokenizer in `folder` for a model with the ids 0 to `vocab` - 1, one line each.

    `container`: version of transformers in the image that will load it; None: this project's own runtime.
    Raises TokenizerError where it cannot be loaded, here or in the container, or belongs to another model.
    """
    tokenizer = load_tokenizer(folder)
    if tokenizer is None:
        return (_none(folder),)
    _check_size(tokenizer, vocab, folder)
    settings, vocabulary = read_settings(folder), vocabulary_in(folder)
    if container is not None and vocabulary is not None and vocabulary.reader != "ranks":
        names = {*vocabulary.files, *FORMS}
        container_form({name: (folder / name).read_bytes() for name in names if (folder / name).is_file()}, container)
    edges = _sentencepiece_notes if vocabulary and vocabulary.reader == "sentencepiece" else _edge_notes
    notes = [*tokenizer.notes, *_beyond(tokenizer, vocab), *edges(tokenizer, settings, container)]
    if vocabulary is not None and vocabulary.reader == "ranks":
        notes.append(f"{vocabulary.file} is packed as a tokenizer.json with the same ids")
    elif settings.code and vocabulary is not None:
        who = f"`{settings.name}` in {settings.code}"
        notes.append(f"the tokenizer's own code ({who}) is not run: ids are those of {vocabulary.file} alone")
    return tuple(notes)


def _none(folder: Path) -> str:
    """Note on a folder without a vocabulary, with files that look like one."""
    suffixes, beginnings = (".tiktoken", ".model", ".vocab", ".bpe"), ("token", "vocab", "merges")
    names = (path.name for path in folder.iterdir() if path.suffix in suffixes or path.name.startswith(beginnings))
    found = sorted(names)
    code = read_settings(folder).code
    seen = f" (found {', '.join(found)}{f', read by {code} alone' if code else ''})" if found else ""
    return (
        f"{folder} has no tokenizer that is read{seen}: the artifact takes token ids; `--tokenizer DIR` adds one, "
        f"a folder with {vocabulary_names()}"
    )


def _check_size(tokenizer: Tokenizer, vocab: int, folder: Path) -> None:
    if tokenizer.regular > vocab:
        raise TokenizerError(
            f"the tokenizer in {folder} has the ids 0 to {tokenizer.regular - 1} in its regular vocabulary; the model "
            f"has embeddings for 0 to {vocab - 1}",
            hint="it is the tokenizer of another model: pass the right one with `--tokenizer DIR`",
        )


def _beyond(tokenizer: Tokenizer, vocab: int) -> list[str]:
    """Note on added tokens without an embedding."""
    found = [f"`{text}` ({i})" for i, text in sorted(tokenizer.extra.items()) if i >= vocab]
    if not found:
        return []
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    text = (
        f"{len(found)} added token(s) have ids beyond the model's {vocab} embeddings: {', '.join(found[:_SHOWN])}{more}"
    )
    return [f"{text}; prompts with them are refused"]


def _edge_notes(tokenizer: Tokenizer, settings: TokenizerSettings, container: str | None) -> list[str]:
    """Note where another release of transformers puts other tokens around a prompt."""
    ids = {text: i for i, text in tokenizer.extra.items()}
    probe, notes = tokenizer.encode(PROBE), []
    version = container or _NEWEST_4
    edges = edges_in(settings, release_of(version))
    for key, at, verb in (("bos_token", 0, "begin"), ("eos_token", -1, "end")):
        text = settings.token(key)
        if text is None or text not in ids or edges is None:
            continue
        here, there = probe[at] == ids[text], _edge(edges, key)
        if here != there:
            who = f"transformers {version} of the image" if container else f"transformers {version}"
            setting = "add_bos_token" if key == "bos_token" else "add_eos_token"
            notes.append(
                f"prompts {verb} {_with(here)} `{text}` here, as tokenizer.json says, and {_with(there)} it in {who} "
                f"(class {settings.name or settings.model_type}, `{setting}` {_said(settings, key)}): "
                + ("the endpoint will do the latter" if container else "compare with your deployment's own tokenizer")
            )
    return notes


def _sentencepiece_notes(tokenizer: Tokenizer, settings: TokenizerSettings, container: str | None) -> list[str]:
    """Note where BOS is added by a class's default, which releases of transformers do not share."""
    first = tokenizer.extra.get(tokenizer.encode(PROBE)[0])
    if settings.add_bos is not None or first is None or (container and release_of(container) < (5, 0)):
        return []
    only = "transformers 5 adds it only where tokenizer_config.json has `add_bos_token` true"
    here = f"prompts begin with `{first}` here, the default of transformers 4"
    return [f"{here}; {only}: compare with your deployment's own tokenizer"]


def _edge(edges: Edges, key: str) -> bool:
    return edges.bos if key == "bos_token" else edges.eos


def _with(added: bool) -> str:
    return "with" if added else "without"


def _said(settings: TokenizerSettings, key: str) -> str:
    value = settings.add_bos if key == "bos_token" else settings.add_eos
    return "absent" if value is None else str(value).lower()
