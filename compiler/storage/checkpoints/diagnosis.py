"""Diagnosis of folders and repositories without config.json or without weights: what they hold instead, what to do.

One table, the first row that applies counts. Each row knows file names alone, so that a folder, a repository of the hub
and a prefix in S3 are diagnosed alike.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from compiler.errors import CheckpointError
from compiler.storage.checkpoints.index import INDEX, PICKLED, SINGLE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

ADAPTER = "adapter_config.json"

_SHOWN = 8


@dataclass(frozen=True)
class ForeignFiles:
    """A kind of files that are found where a checkpoint was expected. `patterns`: of their names, in lower case.
    `least`: number of such files from which the row applies. `text`, `hint`: `{files}` and `{first}` are replaced.
    """

    patterns: tuple[str, ...]
    text: str
    hint: str
    least: int = 1


FINDINGS = (
    ForeignFiles(
        ("*.incomplete", "*.part", "*.partial", "*.crdownload", "*.aria2", "*.download"),
        "a download has not ended: {files}",
        "finish the download: run the command that began it again",
    ),
    ForeignFiles(
        (ADAPTER,),
        "this is an adapter (PEFT, LoRA){base}, not a model",
        "merge it into its base model (PEFT's `merge_and_unload`, then `save_pretrained`), and pass the merged model",
    ),
    ForeignFiles(
        ("*.gguf", "*.ggml"),
        "the weights are only in the format of llama.cpp: {files}",
        "use the original model with safetensors files: GGUF files are not read",
    ),
    ForeignFiles(
        ("consolidated*.safetensors", "consolidated*.pth", "consolidated*.pt", "params.json", "*/consolidated*"),
        "the weights are only in the publisher's own format: {files}",
        "use the model in the format of transformers: config.json and model.safetensors, often a repository `...-hf`",
    ),
    ForeignFiles(
        ("*.tar", "*.tar.gz", "*.tgz", "*.tar.zst", "*.tar.bz2", "*.zip", "*.7z"),
        "there is an archive: {files}",
        "unpack {first}, and pass the folder with config.json as `--model`",
    ),
    ForeignFiles(
        ("*/config.json",),
        "the checkpoint is in a folder below: {files}",
        "pass the folder of {first} as `--model`",
    ),
    ForeignFiles(
        ("*-of-*.safetensors",),
        f"shards without their index {INDEX}: {{files}}",
        f"download {INDEX}, which says which tensors are in which file, into the same folder",
    ),
    ForeignFiles(
        ("*.safetensors",),
        f"safetensors files of other names, and no index {INDEX}: {{files}}",
        "keep the one that is the model; which one cannot be told from their names",
        least=2,
    ),
    ForeignFiles(
        ("*.safetensors",),
        f"a safetensors file of another name than {SINGLE}: {{files}}",
        f"rename {{first}} to {SINGLE}, or add a link of that name, if it is the whole model",
    ),
    ForeignFiles(
        ("*.bin", "*.pt", "*.pth", "*.ckpt"),
        f"torch files of other names than {PICKLED}: {{files}}",
        f"if {{first}} has the state dict of the whole model, rename it to {PICKLED}",
    ),
    ForeignFiles(
        ("*.h5", "*.msgpack", "*.onnx", "*.tflite", "*.mlmodel", "*.ot"),
        "the weights are only in the format of another framework: {files}",
        "use a revision of the model with safetensors files",
    ),
)


def diagnosed(lacks: str, where: str, names: Iterable[str], folder: Path | None, hint: str) -> CheckpointError:
    """Error for a checkpoint in `where` that lacks `lacks` (`config.json`, `weights`): what there is instead.

    `names`: its files, those in folders below as `sub/name`. `folder`: where the small ones are on this machine.
    `hint`: for the case that no row applies.
    """
    found = sorted(names)
    dangling = dangling_links(folder) if folder is not None else []
    if dangling:
        return CheckpointError(
            f"no {lacks} in {where}: links to files that do not exist: {_files(dangling)}",
            hint="the cache has lost these files: download the model again (`hf download`), or pass the folder that "
            "the links point into, too",
        )
    for row in FINDINGS:
        matching = [name for name in found if any(fnmatchcase(name.lower(), pattern) for pattern in row.patterns)]
        if len(matching) >= row.least:
            text = row.text.format(files=_files(matching), first=matching[0], base=_base_model(folder))
            return CheckpointError(f"no {lacks} in {where}: {text}", hint=row.hint.format(first=matching[0]))
    return CheckpointError(f"no {lacks} in {where}: found {_files(found) or 'nothing'}", hint=hint)


def names_below(folder: Path) -> list[str]:
    """Files of a folder, and those of the folders in it that a diagnosis looks for, as `sub/name`: of each the files,
    the config.json of snapshots in a hub's cache, and downloads of the hub's client that have not ended.
    """
    patterns = ("*", "[!.]*/*", "*/*/config.json", ".cache/huggingface/download/*.incomplete")
    found = {path for pattern in patterns for path in folder.glob(pattern) if not path.is_dir()}
    return sorted(path.relative_to(folder).as_posix() for path in found)


def dangling_links(folder: Path) -> list[str]:
    """Names of links in `folder` whose file does not exist."""
    return sorted(path.name for path in folder.iterdir() if path.is_symlink() and not path.exists())


def notes_on(names: Iterable[str]) -> tuple[str, ...]:
    """Sentences on files beside a whole checkpoint that change what users expect of it."""
    if ADAPTER in set(names):
        return (f"the adapter beside the model ({ADAPTER}) is not applied: the base model alone is built",)
    return ()


def _files(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _base_model(folder: Path | None) -> str:
    """` of \\`owner/name\\`` from an adapter's config; empty where it does not say."""
    try:
        found = json.loads((folder / ADAPTER).read_bytes()) if folder else None
    except (OSError, ValueError):
        return ""
    base = found.get("base_model_name_or_path") if isinstance(found, dict) else None
    return f" of `{base}`" if isinstance(base, str) and base else ""
