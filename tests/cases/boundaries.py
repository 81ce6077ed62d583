"""Files that one reader accepts and another does not, and the boundaries that catch everything."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.cases.case import case
from tests.cases.checkpoints import difference, write
from tests.cases.runs import build, plan, refused, taken

if TYPE_CHECKING:
    from pathlib import Path

JUDGED = ("--target", "trtllm", "--until", "judge")
"""Options of a build that compares the source's logits by transformers with those of the rank files."""


def _encoded(model: Path, encoding: str, *names: str) -> Path:
    """The checkpoint `model` with these files in another encoding."""
    for name in names:
        (model / name).write_text((model / name).read_text(), encoding=encoding)
    return model


@case(20, "rope_scaling with rope_type null beside a type")
def rope_type_null(folder: Path) -> None:
    """The build refuses before it computes, or scales as the type says."""
    scaling = {"rope_type": None, "type": "linear", "factor": 2.0}
    model = write(folder / "model", {"rope_scaling": scaling})
    planned = plan(model)
    if planned.code:
        refused(planned, 3 if planned.code == 3 else 4, "rope_scaling", "rope_type")
    else:
        taken(build(model, folder / "out", *JUDGED))


@case(54, "config.json with a byte order mark")
def byte_order_mark(folder: Path) -> None:
    """Every later reader takes the parsed file: the reference, the packager, the container."""
    model = _encoded(write(folder / "model"), "utf-8-sig", "config.json", "tokenizer_config.json")
    taken(build(model, folder / "out", *JUDGED))
    for packed in ("config.json", "tokenizer_config.json"):
        assert (folder / "out" / "tokenizer" / packed).read_bytes()[:1] == b"{", packed
    assert difference(write(folder / "same")) < 2e-6


@case(55, "config.json and generation_config.json in UTF-16")
def utf_16(folder: Path) -> None:
    """JSON in another encoding of Unicode is read by all, or by none."""
    model = write(folder / "model")
    (model / "generation_config.json").write_text('{"eos_token_id": [257, 258]}')
    _encoded(model, "utf-16", "config.json", "generation_config.json")
    taken(build(model, folder / "out", *JUDGED))
    packed = (folder / "out" / "tokenizer" / "generation_config.json").read_bytes()
    assert packed == b'{"eos_token_id": [257, 258]}'


@case(55, "generation_config.json that is not JSON, or has nested ids")
def broken_generation_config(folder: Path) -> None:
    """The plan reads it, since whatever serves the model will."""
    for text, words in (
        ("{,}", ("generation_config.json is not JSON",)),
        ("[]", ("generation_config.json", "object")),
        ('{"eos_token_id": [[257]]}', ("generation_config.json", "eos_token_id", "[[257]]")),
        ('{"eos_token_id": "</s>"}', ("generation_config.json", "eos_token_id", "</s>")),
        ('{"eos_token_id": ' + "[" * 100_000, ("generation_config.json is not JSON",)),
    ):
        model = write(folder / f"model{len(text)}")
        (model / "generation_config.json").write_text(text)
        refused(plan(model), 3, *words)


@case(55, "config.json with a trailing comma")
def trailing_comma(folder: Path) -> None:
    """A file that is not JSON is named, with the place."""
    model = write(folder / "model")
    text = (model / "config.json").read_text()
    (model / "config.json").write_text(text.rstrip().removesuffix("}").rstrip() + ",\n}\n")
    refused(plan(model), 3, "config.json is not JSON")


@case(55, "Infinity in a key that nothing reads")
def infinity(folder: Path) -> None:
    """Python's and JavaScript's spelling of infinity is accepted."""
    taken(plan(write(folder / "model", {"unread": float("inf")})), "LlamaForCausalLM")
