"""Toolchain of target `vllm`: a real server compiles, its caches are packed, and a second start proves that they hit.

bake        the server starts without caches, answers requests for every kernel, is stopped; its caches are packed
prove       a fresh process with another root, HOME and temporary folder, the model's folder read-only and without
            a network where namespaces are allowed: the carrier restores the caches, and proof.py judges the start
control     the same with another VLLM_PROCESS_NAME_PREFIX, which is in the key (dialect J: and another variable of
            torch): must be judged a miss, and each must be named; otherwise the proof proves nothing
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import ArtifactError, CompileError
from compiler.machine import gpus
from compiler.storage.files.digest import sha256_file
from compiler.targets.vllm.environment import BLOCK_SIZE, CPU_DIALECT, FORCED, pinned
from compiler.targets.vllm.factors import differences, merged
from compiler.targets.vllm.harvest import harvest
from compiler.targets.vllm.interpreter import plugins, python_with_vllm, versions_of
from compiler.targets.vllm.isolation import isolation
from compiler.targets.vllm.proof import content, judge
from compiler.targets.vllm.reference import check_reference
from compiler.targets.vllm.runner import judge_of
from compiler.targets.vllm.server import ServerHost, ServerRun, install_carrier, log_of, start, workload

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from compiler.artifact.manifest import Device
    from compiler.model.config import ModelConfig
    from compiler.targets.values import How, Sources
    from compiler.targets.vllm.environment import Dialect
    from compiler.targets.vllm.harvest import CacheFile
    from compiler.targets.vllm.proof import HitVerdict, Start
    from compiler.targets.vllm.reference import Reference
    from compiler.targets.vllm.serving import Serving

__all__ = ["BakeSpec", "bake_and_prove", "compile", "stand_in", "versions"]

stand_in = False
"""False: this is the real toolchain; see `compiler.targets.values.Toolchain`."""
ARCHIVE, REPORT = "cache.tar.gz", "bake.json"
CONTROL = "VLLM_PROCESS_NAME_PREFIX"
"""Variable of the control: in the key of every dialect, and without effect on what is compiled."""
TORCH_CONTROL = {"TORCHINDUCTOR_CPP_MIN_CHUNK_SIZE": "513"}
"""Further variable of the control in dialect J: vLLM's CPU platform leaves caching to torch, whose key has torch's own
configuration, and no variable of vLLM.
"""
TIMEOUT = 1800.0
"""Seconds for one start."""


@dataclass(frozen=True)
class BakeSpec:
    """Input of one bake. `plan`, `source`: digests of rank files' plan and of the model. `image`: environment of the
    container image that will serve. `vocab`: tokens that requests choose from. `config`: model of the shards, for the
    reference; None: they are compared with nothing.
    """

    serving: Serving
    dialect: Dialect
    plan: str
    source: str
    vocab: int
    image: Mapping[str, str]
    config: ModelConfig | None = None
    name: str = "cache"

    @property
    def outputs(self) -> tuple[str, ...]:
        """The archive, and what is known about it."""
        return ARCHIVE, REPORT

    def to_json(self) -> dict[str, Any]:
        """Part of the cache key."""
        config = self.config.to_json() if self.config else None
        return asdict(replace(self, config=None)) | {"image": dict(self.image), "config": config}


def versions(device: str) -> dict[str, str]:
    """Versions of vLLM and its packages. Raises ToolchainMissing."""
    del device  # the CPU and CUDA builds of vLLM are two packages
    return versions_of(python_with_vllm())


def compile(  # noqa: A001  # the stage's name, see `compiler.targets.values.Toolchain`
    specs: Sequence[BakeSpec],
    out: Path,
    how: How,
    *,
    device: Device,
    sources: Sources,
    progress: Callable[[int, int], None],
) -> None:
    """Bake and prove the cache of the one spec."""
    for each in specs:
        spec = for_device(each, device.kind)
        with tempfile.TemporaryDirectory(prefix="lmi-vllm-") as folder:
            model = gather(sources, Path(folder) / "model")
            with isolation(model, spec.serving.model) as isolated:
                machine = ServerHost(python_with_vllm(), isolated, plugins(), seconds=how.timeout or TIMEOUT)
                reference = judge_of(sources.checkpoint, spec.config, 0).logits if spec.config else None
                bake_and_prove(spec, device.kind, model, machine, Path(folder), out, reference)
    progress(len(specs), len(specs))


def for_device(spec: BakeSpec, device: str) -> BakeSpec:
    """Spec with what depends on the kind of device."""
    serving = replace(spec.serving, block_size=spec.serving.block_size or BLOCK_SIZE[device])
    return replace(spec, serving=serving, dialect=CPU_DIALECT if device == "cpu" else spec.dialect)


def gather(sources: Sources, folder: Path) -> Path:
    """Folder with the files that vLLM reads, as links: rank files, configuration and tokenizer."""
    folder.mkdir(parents=True)
    for path in sorted(sources.checkpoint.iterdir()):
        if path.is_file():
            (folder / path.name).symlink_to(path.resolve())
    for part in sources.tokenizer:
        target = folder / part.name
        if not target.exists():
            target.write_bytes(part.read())
    return folder


def bake_and_prove(
    spec: BakeSpec,
    device: str,
    model: Path,
    machine: ServerHost,
    work: Path,
    out: Path,
    reference: Reference | None = None,
) -> HitVerdict:
    """Write ARCHIVE and REPORT into `out`. `model`: folder that vLLM reads; `work`: folder for the starts;
    `reference`: see reference.py, None: the server is compared with itself alone.

    Raises:
        CompileError: the server does not start, or does not answer.
        ArtifactError: a file of the cache has a secret, the second start is no hit, or the control is judged a hit.
        NumericsError: log probabilities of the server differ from those of the reference.
    """
    serving = replace(spec.serving, model=machine.isolation.model)
    requests = workload(serving.model, spec.vocab, serving.max_model_len - 16, serving.max_num_seqs)

    def run(name: str, boot: Path, restored: Sequence[CacheFile] = (), **more: str) -> Start:
        root = work / f"{name}-root" / "cache"
        settings = {**pinned(spec.dialect, device, str(root), spec.image), **more}
        paths = {file.path: file.digest for file in restored}
        return start(ServerRun(name, model, root, settings, boot, paths, requests=requests), machine, serving, work)

    baked = run("bake", install_carrier(work / "bare"))
    _check_served(baked, work)
    prompt = next(each for each in requests if each["name"] == "prompt")["bodies"][0]["prompt"]
    answer = baked.session["answers"]["prompt"][0]
    median = check_reference(answer, prompt, serving.dtype, reference) if reference else None
    files = harvest(work / "bake-root" / "cache", out / ARCHIVE, os.environ)
    boot = install_carrier(work / "artifact")
    _draft(boot, out / ARCHIVE, serving.tp)
    proved = run("prove", boot, files, **FORCED[spec.dialect])
    verdict = judge(proved, baked.session, spec.dialect, serving.tp)
    if not verdict.hit:
        raise ArtifactError(
            "\n".join(
                ["the server does not start from its own cache:", *(f"  {reason}" for reason in verdict.reasons)]
            ),
            hint="do not serve with this cache; the log has the output of the server",
        )
    control = run("control", boot, files, **control_of(spec.dialect))
    _check_control(control, baked, spec, serving.tp)
    report = _report(spec, device, serving, machine, files, (baked, proved, control), verdict, median)
    (out / REPORT).write_text(json.dumps(report, indent=1, sort_keys=True) + "\n")
    return verdict


def _check_served(baked: Start, work: Path) -> None:
    if baked.session["error"]:
        raise CompileError(
            f"the vLLM server that compiles failed: {baked.session['error']}",
            hint="the log has its output; `lmi-compile doctor` checks the toolchain",
            log=log_of(work, "bake"),
        )


def _draft(folder: Path, archive: Path, tp: int) -> None:
    """The archive with a manifest that names it, for the carrier of a start that proves."""
    (folder / ARCHIVE).symlink_to(archive.resolve())
    files = [{"path": ARCHIVE, "digest": str(sha256_file(archive))}]
    (folder / "manifest.json").write_text(json.dumps({"files": files, "parallel": {"tp": tp}}))


def control_of(dialect: Dialect) -> dict[str, str]:
    """Variables that only the control has."""
    return {CONTROL: "lmi-control", **(TORCH_CONTROL if dialect == "J" else {})}


def _check_control(control: Start, baked: Start, spec: BakeSpec, ranks: int) -> None:
    """Raise ArtifactError unless the control is judged a miss whose variable is named."""
    verdict = judge(control, baked.session, spec.dialect, ranks)
    named = differences(merged(baked.records), merged(control.records))
    if verdict.hit or not control_of(spec.dialect).keys() <= {each.name for each in named}:
        found = (
            "it was judged a hit" if verdict.hit else f"named are {', '.join(each.name for each in named) or 'none'}"
        )
        raise ArtifactError(
            f"the control with another {' and '.join(control_of(spec.dialect))} must be a miss and named; {found}",
            hint="the proof cannot be trusted with this vLLM: report its version",
        )


def _report(
    spec: BakeSpec,
    device: str,
    serving: Serving,
    machine: ServerHost,
    files: tuple[CacheFile, ...],
    starts: tuple[Start, Start, Start],
    verdict: HitVerdict,
    reference: float | None,
) -> dict[str, Any]:
    baked, _, control = starts
    missed = judge(control, baked.session, spec.dialect, serving.tp)
    return {
        "serving": asdict(serving),
        "plan": spec.plan,
        "versions": versions_of(machine.python, machine.python_path),
        "capability": gpus()[0][0].capability if device == "cuda" else None,
        "dialect": spec.dialect,
        "device": device,
        "isolated": machine.isolation.isolated,
        "factors": merged(baked.records),
        "answers": {name: [content(each) for each in answers] for name, answers in baked.session["answers"].items()},
        "files": [asdict(file) for file in files],
        "proof": {
            "counters": dict(verdict.counters),
            "largest_difference": verdict.largest_difference,
            "reference_difference": reference,
            "control": list(missed.reasons),
        },
        "seconds": {
            name: {"cpu": round(each.session["cpu"], 1), "ready": round(each.session["ready"] or 0.0, 1)}
            for name, each in zip(("bake", "prove", "control"), starts, strict=True)
        },
    }
