"""Compile process: one segment after the other, from torch.export to a package with reproducible bytes.

    argv    folder of the packages, device, march
    stdin   one JSON object per line: `SegmentSpec.to_json`
    stdout  name of each finished package, one per line
    stderr  output of torch and of the C++ compiler

`compiler.targets.inductor.build` starts it, with an environment and a working directory of its own.
"""

from __future__ import annotations

import json
import os
import re
import sys
import zipfile
from pathlib import Path
from typing import Any

from compiler.decoder.segments import SegmentSpec
from compiler.targets.inductor import library

VECTOR_BITS = {"x86-64": 1, "x86-64-v2": 1, "x86-64-v3": 256, "x86-64-v4": 512}
"""Width in bits of inductor's explicit vectors, by march; 1 disables them. For any other march: the compiling CPU's."""

_EPOCH = (1980, 1, 1, 0, 0, 0)
_KERNEL_SOURCE = re.compile(r"\.kernel(\.cpp|_metadata\.json|\.o)$")
_WRAPPER = re.compile(r"^[a-z0-9]+(?=\.wrapper(\.|_))")


def main(argv: list[str]) -> None:
    out, device, march = Path(argv[0]), argv[1], argv[2]
    # Standard output carries package names only, so prints of other code go to standard error.
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        spec = SegmentSpec.from_json(json.loads(line))
        compile_segment(spec, out, device=device, march=march)
        print(spec.name, file=replies)


def compile_segment(spec: SegmentSpec, out: Path, *, device: str, march: str) -> Path:
    """Compile one segment to `<out>/<name>.pt2`, atomically. Temporary files are in the current folder."""
    import torch

    from compiler.targets.inductor.graph import build_segment

    module, examples, dynamic_shapes = build_segment(spec, device)
    chosen = options(device, march) | (products() if device == "cpu" and spec.part in library.PARTS else {})
    with torch.no_grad():
        program = torch.export.export(
            module,
            examples,
            dynamic_shapes=dynamic_shapes,
            strict=False,
            prefer_deferred_runtime_asserts_over_guards=True,
        )
        raw = torch._inductor.aoti_compile_and_package(
            program, package_path=str(Path(f"{spec.name}.pt2").absolute()), inductor_configs=chosen
        )
    temporary = out / f".{spec.name}.pt2.tmp"
    repack(Path(raw), temporary, root=spec.name)
    Path(raw).unlink()
    package = out / f"{spec.name}.pt2"
    temporary.replace(package)
    return package


def options(device: str, march: str) -> dict[str, Any]:
    """Settings of inductor. All keys exist since torch 2.9; the compiler's wrapper sets `-march` itself."""
    chosen: dict[str, Any] = {
        # Precompiling headers takes longer than it saves for a dozen packages, and needs the program openssl.
        "aot_inductor.precompile_headers": False,
    }
    if device == "cuda":
        # Kernels go into the library, so that no file beside it is needed at run time.
        return {**chosen, "aot_inductor.embed_kernel_binary": True}
    # Use the thread count of the machine that runs the package, not of the one that compiles it.
    chosen["cpp.dynamic_threads"] = True
    if march in VECTOR_BITS:
        chosen["cpp.simdlen"] = VECTOR_BITS[march]
    return chosen


def products() -> dict[str, Any]:
    """Settings of inductor for a segment with CPU products: call them directly, not through torch's dispatcher, and
    link the library that `build.py` has compiled.
    """
    from compiler.targets.inductor import attention, ops

    return {
        "aot_inductor.custom_ops_to_c_shims": ops.shims() | attention.shims(),
        "aot_inductor.custom_op_libs": [library.NAME],
    }


def repack(raw: Path, package: Path, *, root: str) -> None:
    """Rewrite the archive `raw` so that its bytes depend on the compiled program only.

    Removes names that are hashes over this machine's paths, comments with such paths, times, and torch's serial number
    of the archive; the loader needs none of them. Format: a zip of stored files in

        <root>/archive_format, archive_version, byteorder, .data/version, data/aotinductor/model/*

    as described by torch.export.pt2_archive; the loader reads metadata from the .json with the name of the .cpp.
    """
    with zipfile.ZipFile(raw) as source, zipfile.ZipFile(package, "w", zipfile.ZIP_STORED) as target:
        files = {}
        for entry in source.infolist():
            path = Path(*Path(entry.filename).parts[1:])
            if _KERNEL_SOURCE.search(path.name) or path.name == "serialization_id":
                continue
            data = source.read(entry)
            if path.suffix == ".cpp":
                data = _without_comments(data)
            files[path.with_name(_WRAPPER.sub("model", path.name)).as_posix()] = data
        for name in sorted(files):
            info = zipfile.ZipInfo(f"{root}/{name}", _EPOCH)
            info.external_attr = 0o644 << 16
            target.writestr(info, files[name])
    with package.open("rb") as written:
        os.fsync(written.fileno())


def _without_comments(source: bytes) -> bytes:
    return b"".join(line for line in source.splitlines(keepends=True) if not line.lstrip().startswith(b"//"))


if __name__ == "__main__":
    main(sys.argv[1:])
