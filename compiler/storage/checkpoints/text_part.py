"""The text part of a multimodal checkpoint, as a checkpoint of its own (`--text-only`)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from compiler.errors import RefusedError, UsageError
from compiler.model.families import family_of
from compiler.model.wrappers import left_out, text_names, text_part

if TYPE_CHECKING:
    from compiler.storage.checkpoints.checkpoint import Checkpoint


def text_checkpoint(checkpoint: Checkpoint) -> Checkpoint:
    """The text part of a checkpoint: its configuration, its tensors under the names of the causal model, and a note on
    what is left out.

    Raises:
        UsageError: it is a model of text alone.
        RefusedError: the text part is no model by itself, or two of its tensors have one name.
    """
    part = text_part(checkpoint.config)
    if part is None:
        named = checkpoint.config.get("architectures") or checkpoint.config.get("model_type")
        raise UsageError(
            f"`--text-only` takes a multimodal model, with `text_config` in config.json; found {named!r}",
            hint="leave `--text-only` out",
        )
    family = family_of(part.wrapper)
    if family is not None:
        raise RefusedError(
            f"{part.wrapper!r} needs {family.needs}: its text part alone is another model", hint=family.instead
        )
    names = text_names(checkpoint.tensors)
    if len(set(names.values())) < len(names):
        twice = sorted({new for new in names.values() if list(names.values()).count(new) > 1})
        raise RefusedError(
            f"{len(twice)} tensors of the text part are there twice, such as `{twice[0]}`",
            hint="remove one of the two copies from the checkpoint",
        )
    rest = left_out(checkpoint.tensors, names)
    counts = ", ".join(f"{count} of {name}" for name, count in rest.most_common())
    note = f"text part of {part.wrapper} as {part.name}; {sum(rest.values())} tensors are left out: {counts or 'none'}"
    return replace(
        checkpoint,
        config=part.config,
        tensors={new: replace(checkpoint.tensors[name], name=new) for name, new in names.items()},
        notes=(*checkpoint.notes, note),
        whole=checkpoint.config,
    )
