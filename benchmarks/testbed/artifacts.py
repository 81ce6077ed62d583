"""Small artifacts that need neither a model nor a toolchain."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from compiler.artifact.manifest import ArtifactFile, ArtifactLimits, Device, Manifest, Parallel, SourceModel
from compiler.model.config import LayerKind, ModelConfig
from compiler.runtime.section import Segments
from compiler.storage.files.digest import OCTETS, digest_bytes

if TYPE_CHECKING:
    from pathlib import Path

CONFIG = ModelConfig(
    architecture="LlamaForCausalLM", layers=1, hidden=16, heads=4, kv_heads=2, head_dim=4, ffn=24, vocab=37,
    norm_eps=1e-5, max_positions=64, dtype="bfloat16", rotary_dim=4, layer_kinds=(LayerKind("gated"),),
)  # fmt: skip
CONTENT = {
    "weights/rank0.safetensors": b"zero" * 100,
    "weights/rank1.safetensors": b"one" * 100,
    "packages/attn.prefill.pt2": b"attention",
    "packages/mlp-gated.prefill.pt2": b"mlp",
    "tokenizer/tokenizer.json": b"{}",
}


def manifest(**changes: Any) -> Manifest:
    """Manifest of a folder with CONTENT. `changes`: fields to replace."""
    fields: dict[str, Any] = {
        "name": "tiny",
        "model": SourceModel(
            source="hub",
            repo_id="owner/tiny",
            revision="0123456789abcdef0123456789abcdef01234567",
            recipe="llama",
            architecture="LlamaForCausalLM",
            config=CONFIG.to_json(),
            source_digest=digest_bytes(b"source"),
        ),
        "target": "inductor",
        "toolchain": {"torch": "2.13.0+cpu", "cxx": "g++ 12.2.0"},
        "device": Device(kind="cpu", isa="x86-64-v3"),
        "parallel": Parallel(tp=2),
        "dtype": "bfloat16",
        "limits": ArtifactLimits(max_positions=64, max_batch=2, prefill_chunk=64),
        "section": Segments(
            weights=("weights/rank0.safetensors", "weights/rank1.safetensors"),
            layers=(("attn", "mlp-gated"),),
            packages={
                "attn.prefill": "packages/attn.prefill.pt2",
                "mlp-gated.prefill": "packages/mlp-gated.prefill.pt2",
            },
        ),
        "files": tuple(
            ArtifactFile(path=path, media_type=OCTETS, digest=digest_bytes(data), size=len(data))
            for path, data in CONTENT.items()
        ),
        "plan_digest": digest_bytes(b"plan"),
    }
    return Manifest(**{**fields, **changes})


def write(folder: Path, made: Manifest | None = None) -> Path:
    """Write CONTENT and the manifest to the folder. Returns the folder."""
    for path, data in CONTENT.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
    (folder / "manifest.json").write_bytes((made or manifest()).to_bytes())
    return folder


def write_random(folder: Path, seed: int = 0, *, size: int = 400, ranks: int = 2, **changes: Any) -> Path:
    """Write an artifact `tiny` to `folder`: `ranks` files of `size` bytes, random by `seed`, and small ones."""
    source = random.Random(seed)
    content = dict(CONTENT) | {f"weights/rank{r}.safetensors": source.randbytes(size) for r in range(ranks)}
    for path, data in content.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    files = tuple(
        ArtifactFile(path=path, media_type=OCTETS, digest=digest_bytes(data), size=len(data))
        for path, data in sorted(content.items())
    )
    (folder / "manifest.json").write_bytes(manifest(files=files, **changes).to_bytes())
    return folder


def content(folder: Path) -> dict[str, bytes]:
    """Bytes of all files below `folder` by path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
