"""Cache of an artifact that was built without vLLM, made where vLLM is.

Command: `python -m compiler.targets.vllm.finish ARTIFACT`, which `bake.sh` runs. The result is in ARTIFACT/compiled,
for `lmi-compile package`.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from compiler.artifact.check import check_files
from compiler.artifact.manifest import load_manifest
from compiler.errors import LmiCompileError, boundary
from compiler.model.limits import Limits
from compiler.targets.vllm.artifact import options_of
from compiler.targets.vllm.bake import TIMEOUT, bake_and_prove, for_device
from compiler.targets.vllm.interpreter import plugins, python_with_vllm
from compiler.targets.vllm.isolation import isolation
from compiler.targets.vllm.runner import judge_of
from compiler.targets.vllm.script import COMPILED
from compiler.targets.vllm.server import ServerHost
from compiler.targets.vllm.specs import spec_of


def finish(artifact: Path) -> Path:
    """Bake and prove the cache of the shards in `artifact`; the folder of the result. Raises LmiCompileError."""
    manifest = load_manifest(artifact)
    check_files(manifest, artifact, by="sha256")
    limits, options = Limits(**manifest.limits.model_dump()), options_of(manifest)
    tp, dtype = manifest.parallel.tp, manifest.dtype
    spec = spec_of(manifest.config, tp, dtype, limits, options, manifest.plan_digest, manifest.model.source_digest)
    spec = for_device(spec, manifest.device.kind)
    reference = judge_of(artifact, spec.config, 0).logits if spec.config else None
    out = artifact / COMPILED
    with tempfile.TemporaryDirectory(prefix="lmi-vllm-") as work, isolation(artifact, spec.serving.model) as isolated:
        made = Path(work) / "out"
        made.mkdir()
        host = ServerHost(python_with_vllm(), isolated, plugins(), seconds=TIMEOUT)
        bake_and_prove(spec, manifest.device.kind, artifact, host, Path(work), made, reference)
        out.mkdir(exist_ok=True)
        for path in made.iterdir():
            (out / path.name).write_bytes(path.read_bytes())
    return out


if __name__ == "__main__":
    try:
        with boundary(input=sys.argv[1]):
            print(finish(Path(sys.argv[1]).absolute()))
    except LmiCompileError as error:
        print(error.log, f"error: {error.message}", f"hint: {error.hint}", sep="\n", file=sys.stderr)
        sys.exit(error.exit_code)
