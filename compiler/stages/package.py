"""Put an artifact together out of files that exist already, and put it in place in one step."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from compiler.artifact.manifest import MANIFEST, ArtifactLimits, File, Manifest, Parallel
from compiler.artifact.parts import existing
from compiler.errors import TokenizerError, UsageError
from compiler.store.disk import disk_full
from compiler.store.source import CONFIGS, TEXT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from compiler.artifact.manifest import Device, Model
    from compiler.artifact.parts import Part
    from compiler.artifact.quantisation import Quantisation
    from compiler.store.digest import DigestMemo
    from compiler.targets import Contents, Planned

_VOCABULARIES = {"tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model"}
"""Files without which the other files of a tokenizer are of no use."""


def tokenizer_parts(source: Path, tokenizer: Path | None) -> list[Part]:
    """The files of tokenizer/: of the folder `tokenizer` where given, else of the checkpoint `source`.

    Raises TokenizerError where `tokenizer` is given and has no vocabulary.
    """
    if tokenizer is not None and not any((tokenizer / name).is_file() for name in _VOCABULARIES):
        raise TokenizerError(
            f"no tokenizer in {tokenizer}: expected one of {', '.join(sorted(_VOCABULARIES))}",
            hint="`--tokenizer` takes a folder with the tokenizer's files, best with a tokenizer.json",
        )
    found = [*_matching(tokenizer or source, TEXT), *_matching(source, CONFIGS)]
    return [existing(path, f"tokenizer/{path.name}") for path in found]


def _matching(folder: Path, patterns: Sequence[str]) -> list[Path]:
    paths = (path for pattern in patterns for path in folder.glob(pattern) if path.is_file())
    return sorted(set(paths))


def tokenizer_json(parts: Sequence[Part]) -> Path | None:
    """The tokenizer.json among the parts, for those who read it before it is packed."""
    found = next((part.content for part in parts if part.path == "tokenizer/tokenizer.json"), None)
    return None if isinstance(found, bytes) else found


def has_vocabulary(parts: Sequence[Part]) -> bool:
    return any(part.name in _VOCABULARIES for part in parts)


def draft_manifest(
    plan: Planned,
    contents: Contents,
    *,
    name: str,
    target: str,
    model: Model,
    device: Device,
    toolchain: Mapping[str, str],
    parts: Sequence[Part],
    stand_in: bool,
    quantisation: Quantisation | None = None,
) -> Manifest:
    """The manifest of an artifact of these parts, before its numerics are known."""
    options = plan.options
    section: dict[str, Any] = {contents.name: contents.section}
    return Manifest(
        name=name,
        model=model,
        target=target,
        toolchain=dict(toolchain),
        device=device,
        parallel=Parallel(
            tp=plan.tp, pp=options.pp, moe_ep=options.moe_ep, parallel_embedding=options.parallel_embedding
        ),
        dtype=cast("Literal['bfloat16', 'float16', 'float32']", plan.dtype),  # make_plan refused others
        limits=ArtifactLimits(**asdict(plan.limits)),
        files=tuple(File(**asdict(part.descriptor)) for part in sorted(parts, key=lambda part: part.path)),
        plan_digest=plan.digest,
        stand_in=stand_in,
        quantisation=quantisation,
        **section,
    )


def check_output(output: Path, *, force: bool) -> None:
    """Refuse an output that something else would be lost in. Raises UsageError."""
    if not output.exists():
        return
    if not output.is_dir():
        raise UsageError(f"{output} is a file", hint="`--output` takes a folder that does not exist yet")
    if not any(output.iterdir()):
        return
    if not (output / MANIFEST).is_file():
        raise UsageError(
            f"{output} has files in it and is not an artifact", hint="choose another folder with `--output`"
        )
    if not force:
        raise UsageError(
            f"{output} holds another artifact",
            hint="pass `--force` to replace it, or choose another `--output`",
        )


def assemble(folder: Path, parts: Sequence[Part], memo: DigestMemo, progress: Callable[[int, int], None]) -> None:
    """Link (same file system) or copy every part into `folder`. Raises DiskFullError, OSError.

    Of a linked file the `memo` then knows the digest: it is the file that was checked.
    """
    total, done = sum(part.descriptor.size for part in parts), 0
    for part in parts:
        target = folder / part.path
        target.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(part.content, bytes):
            target.write_bytes(part.content)
            target.chmod(0o555 if part.executable else 0o444)
        elif _link(part.content, target):
            memo.remember(target, part.descriptor.digest)
        else:
            _copy(part.content, target, total - done)
        done += part.descriptor.size
        progress(done, total)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write, or replace, manifest.json. Raises OSError."""
    part = folder / f"{MANIFEST}.part"
    part.write_bytes(manifest.to_bytes())
    part.chmod(0o444)
    part.replace(folder / MANIFEST)


def _link(source: Path, target: Path) -> bool:
    """Only files that nobody may write are shared: what is changed in one place would change in the other."""
    if source.stat().st_mode & 0o222 or source.is_symlink():
        return False
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP):
            return False
        raise
    return True


def _copy(source: Path, target: Path, needed: int) -> None:
    """Copy inside the kernel, which shares the blocks where the file system can. `needed`: bytes still to
    come.
    """
    with source.open("rb") as read, target.open("xb") as write:
        left = os.fstat(read.fileno()).st_size
        try:
            while left > 0:
                count = _copy_some(read.fileno(), write.fileno(), min(left, 1 << 30))
                if count == 0:
                    break
                left -= count
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise disk_full(target, needed, shutil.disk_usage(target.parent).free) from error
            raise
    target.chmod(0o444)


def _copy_some(read: int, write: int, count: int) -> int:
    try:
        return os.copy_file_range(read, write, count)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
            raise
    return os.sendfile(write, read, None, count)
