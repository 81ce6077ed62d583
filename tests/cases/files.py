"""Files of checkpoints: shards and indexes, pointers, links, unfinished downloads, other formats."""

from __future__ import annotations

import shutil
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.cases.case import case
from tests.cases.checkpoints import CONFIG, weights, write, write_json, write_weights
from tests.cases.runs import build, convert, plan, refused, taken

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from torch import Tensor

SAME = 2e-5
INDEX = "model.safetensors.index.json"
POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 123456\n".format("0" * 64)


def sharded(folder: Path, names: tuple[str, str] = ("first.safetensors", "second.safetensors")) -> dict[str, str]:
    """Deal the tensors of the tiny checkpoint out to two files; the weight map of its index."""
    write(folder)
    (folder / "model.safetensors").unlink()
    tensors = weights(CONFIG)
    index = {name: names[i % 2] for i, name in enumerate(tensors)}
    for file in names:
        write_weights(folder / file, {name: tensors[name] for name in tensors if index[name] == file})
    write_index(folder, index)
    return index


def write_index(folder: Path, weight_map: Mapping[str, str], **metadata: object) -> None:
    """Write the index of the safetensors files."""
    write_json(folder / INDEX, {"metadata": metadata, "weight_map": dict(weight_map)})


def only(folder: Path, *names: str, content: str = "text") -> Path:
    """A folder with config.json and other files than weights."""
    folder.mkdir()
    write_json(folder / "config.json", CONFIG)
    for name in names:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content)
    return folder


@case(33, "an adapter folder alone")
def adapter_alone(folder: Path) -> None:
    """The base model is named."""
    (folder / "adapter").mkdir()
    write_json(folder / "adapter" / "adapter_config.json", {"base_model_name_or_path": "org/base", "peft_type": "LORA"})
    (folder / "adapter" / "adapter_model.safetensors").write_bytes(b"")
    refused(plan(folder / "adapter"), 3, "adapter", "`org/base`", "merge")


@case(43, "total_size as a float, as text, and an index without metadata")
def metadata(folder: Path) -> None:
    """Nothing is read of it."""
    index = sharded(folder / "model")
    for total in (1.0, "12", None):
        write_index(folder / "model", index, total_size=total)
        taken(plan(folder / "model"))
    write_json(folder / "model" / INDEX, {"weight_map": index})
    taken(plan(folder / "model"))


@case(44, "an overlay shard: the index says which copy counts")
def overlay(folder: Path) -> None:
    """The copy that the index names is converted."""
    index = sharded(folder / "model")
    name = "model.layers.0.mlp.up_proj.weight"
    better = weights(CONFIG, seed=9)[name]
    write_weights(folder / "model" / "overlay.safetensors", {name: better})
    write_index(folder / "model", {**index, name: "overlay.safetensors"})
    taken(plan(folder / "model"), "1 tensor(s)", name)
    taken(convert(folder / "model", folder / "out"))
    assert _has(folder / "out", "layers.0.mlp.gate_up.weight", better)


def _has(output: Path, name: str, rows: Tensor) -> bool:
    """Whether the last rows of a tensor in rank 0's file are `rows`."""
    import torch
    from safetensors.torch import load_file

    (file,) = output.glob("**/rank0.safetensors")
    return torch.equal(load_file(file)[name][-len(rows) :], rows)


@case(46, "a shard has a tensor that the index does not list")
def unlisted(folder: Path) -> None:
    """Not part of the model, and the plan says so."""
    index = sharded(folder / "model")
    tensors = {name: tensor for name, tensor in weights(CONFIG).items() if index[name] == "first.safetensors"}
    write_weights(
        folder / "model" / "first.safetensors", {**tensors, "mtp.fc.weight": weights(CONFIG, seed=3)["lm_head.weight"]}
    )
    taken(plan(folder / "model"), "the index does not list them: 1 tensor(s) (mtp.fc.weight)")


@case(46, "the index lists a buffer that no file has")
def stale_entry(folder: Path) -> None:
    """Entries that the model does not need have no effect."""
    index = sharded(folder / "model")
    more = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": "first.safetensors" for i in range(2)}
    write_index(folder / "model", {**index, **more})
    taken(plan(folder / "model"))


@case(46, "the index leaves out a tensor that the model needs")
def unlisted_and_needed(folder: Path) -> None:
    """Named with the file that has it."""
    index = sharded(folder / "model")
    file = index.pop("model.norm.weight")
    write_index(folder / "model", index)
    refused(plan(folder / "model"), 3, f"{file} has `model.norm.weight`, which the index does not list")


@case(48, "a shard is missing, or its download has not ended")
def missing_shard(folder: Path) -> None:
    """Named, with the file that is there instead."""
    sharded(folder / "model")
    second = folder / "model" / "second.safetensors"
    second.rename(second.with_name("second.safetensors.incomplete"))
    refused(plan(folder / "model"), 3, "second.safetensors: missing", "second.safetensors.incomplete")
    second.with_name("second.safetensors.incomplete").unlink()
    refused(plan(folder / "model"), 3, "second.safetensors: missing")


@case(48, "only an unfinished download")
def unfinished(folder: Path) -> None:
    """Named as such."""
    refused(plan(only(folder / "model", "model.safetensors.incomplete")), 3, "a download has not ended")
    begun = only(folder / "begun") / ".cache" / "huggingface" / "download"
    begun.mkdir(parents=True)
    (begun / "abc.incomplete").write_bytes(b"")
    refused(plan(folder / "begun"), 3, "a download has not ended", "abc.incomplete")


@case(49, "a truncated shard, an empty file, trailing bytes, metadata that is no text")
def damaged(folder: Path) -> None:
    """The kind of the damage is named."""
    file = write(folder / "model") / "model.safetensors"
    data = file.read_bytes()
    for content, words in ((data[:-1], "truncated"), (b"", "truncated"), (data + b"\0", "1 bytes follow")):
        file.write_bytes(content)
        refused(plan(folder / "model"), 3, "model.safetensors", words)


@case(50, "a git-lfs pointer in place of model.safetensors")
def lfs_safetensors(folder: Path) -> None:
    """Named, with the remedy."""
    (write(folder / "model") / "model.safetensors").write_text(POINTER)
    refused(plan(folder / "model"), 3, "git-lfs pointer", "model.safetensors", "git lfs pull")


@case(50, "git-lfs pointers in place of shards")
def lfs_shards(folder: Path) -> None:
    """Named together."""
    sharded(folder / "model")
    for name in ("first.safetensors", "second.safetensors"):
        (folder / "model" / name).write_text(POINTER)
    refused(plan(folder / "model"), 3, "2 file(s)", "git-lfs pointers", "git lfs pull")


@case(51, "a git-lfs pointer in place of pytorch_model.bin")
def lfs_pickle(folder: Path) -> None:
    """Named before torch is asked."""
    refused(plan(only(folder / "model", "pytorch_model.bin", content=POINTER)), 3, "git-lfs pointer", "git lfs pull")


@case(52, "a git-lfs pointer in place of tokenizer.json")
def lfs_tokenizer(folder: Path) -> None:
    """Refused before anything is converted."""
    model = write(folder / "model")
    (model / "tokenizer.json").write_text(POINTER)
    ran = build(model, folder / "out")
    refused(ran, 3, "tokenizer.json", "git-lfs pointer", "git lfs pull")
    assert "convert" not in ran.err


@case(53, "a git-lfs pointer or a web page in place of config.json")
def no_config(folder: Path) -> None:
    """Named."""
    model = write(folder / "model")
    (model / "config.json").write_text(POINTER)
    refused(plan(model), 3, "config.json", "git-lfs pointer")
    (model / "config.json").write_text("<!DOCTYPE html><html></html>")
    refused(plan(model), 3, "config.json", "not JSON")


@case(58, "shards with other names, in a folder")
def odd_shards(folder: Path) -> None:
    """The index names them."""
    sharded(folder / "model", ("pytorch_model-00001.safetensors", "the rest"))
    taken(convert(folder / "model", folder / "out"))


@case(60, "safetensors files of other names, shards without an index, GGUF only")
def odd_names(folder: Path) -> None:
    """The remedy is the missing name or file."""
    for number, (names, words) in enumerate(
        (
            (("gptq_model-4bit-128g.safetensors",), ("rename gptq_model-4bit-128g.safetensors to model.safetensors",)),
            (("model.fp16.safetensors", "model.fp32.safetensors"), ("of other names", "keep the one")),
            (("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"), ("without their index", INDEX)),
            (("model.Q4_K_M.gguf",), ("llama.cpp", "model.Q4_K_M.gguf", "GGUF files are not read")),
        )
    ):
        refused(plan(only(folder / str(number), *names)), 3, *words)


@case(62, "consolidated.safetensors and params.json beside the model")
def consolidated_beside(folder: Path) -> None:
    """Left out."""
    model = write(folder / "model")
    for name in ("consolidated.safetensors", "params.json"):
        (model / name).write_text("{}")
    taken(plan(model))


@case(63, "consolidated only, .pth only, an archive, a folder below")
def elsewhere(folder: Path) -> None:
    """Named, with the remedy."""
    for number, (name, words) in enumerate(
        (
            ("consolidated.safetensors", "publisher's own format"),
            ("consolidated.00.pth", "publisher's own format"),
            ("weights.pth", "rename"),
            ("model.tar.gz", "unpack model.tar.gz"),
            ("tf_model.h5", "another framework"),
        )
    ):
        refused(plan(only(folder / str(number), name)), 3, name, words)
    nested = folder / "nested"
    nested.mkdir()
    shutil.copytree(write(folder / "model"), nested / "inner")
    refused(plan(nested), 3, "inner/config.json", "pass the folder")
    cache = folder / "models--org--name"
    shutil.copytree(folder / "model", cache / "snapshots" / "abc")
    refused(plan(cache), 3, "snapshots/abc/config.json", "pass the folder")


@case(64, "blanks, quotes and letters of other languages in the path; links of a hub's cache; a read-only folder")
def paths(folder: Path) -> None:
    """Taken."""
    model = write(folder / "a b'c\"%20 ü雪")
    taken(plan(model))
    snapshot = folder / "cache" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (folder / "cache" / "blobs").mkdir()
    for file in model.iterdir():
        shutil.copy(file, folder / "cache" / "blobs" / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    taken(plan(snapshot))
    with _read_only(model):
        taken(convert(model, folder / "out"))


@contextmanager
def _read_only(folder: Path) -> Iterator[None]:
    folder.chmod(0o555)
    try:
        yield
    finally:
        folder.chmod(0o755)


@case(64, "links of a hub's cache to files that are gone")
def dangling(folder: Path) -> None:
    """Named as links."""
    model = write(folder / "model")
    (model / "model.safetensors").unlink()
    (model / "model.safetensors").symlink_to("../../blobs/gone")
    refused(plan(model), 3, "links to files that do not exist: model.safetensors", "download")
