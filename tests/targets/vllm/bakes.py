"""Bakes of the tests: with the stand-in for vLLM, in folders of their own."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.targets.vllm import bake
from compiler.targets.vllm.environment import pinned
from compiler.targets.vllm.isolation import Isolation
from compiler.targets.vllm.server import ServerHost, ServerRun, start, workload
from compiler.targets.vllm.serving import Serving
from tests.targets.vllm.bake_stand_in import write_stand_in

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compiler.targets.vllm.proof import HitVerdict, Start
    from compiler.targets.vllm.reference import Reference

SERVING = Serving(tp=1, dtype="bfloat16", max_model_len=64, max_num_seqs=2, max_num_batched_tokens=64, block_size=16)
SPEC = bake.BakeSpec(SERVING, "M", plan="plan", source="source", vocab=100, image={})


@dataclass(frozen=True)
class TriedBake:
    """A finished bake. `out`: archive and report; `boot`: folder with carrier, archive and draft manifest."""

    spec: bake.BakeSpec
    verdict: HitVerdict
    out: Path
    work: Path
    host: ServerHost
    model: Path

    @property
    def boot(self) -> Path:
        return self.work / "artifact"

    @property
    def report(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.out / bake.REPORT).read_text())
        return found

    @property
    def restored(self) -> dict[str, str]:
        """Files below the root that the carrier restores, digest by path."""
        return {file["path"]: file["digest"] for file in self.report["files"]}

    def start(
        self,
        name: str,
        more: Mapping[str, str],
        *,
        root: Path | None = None,
        serving: Serving | None = None,
        boot: Path | None = None,
    ) -> Start:
        """Another start from the cache, with more environment. `boot`: another folder of the artifact."""
        root = root or self.work / f"{name}-root" / "cache"
        settings = {**pinned(self.spec.dialect, "cpu", str(root), {}), **more}
        serving = replace(serving or self.spec.serving, model=self.host.isolation.model)
        requests = workload(serving.model, self.spec.vocab, serving.max_model_len - 16, serving.max_num_seqs)
        run = ServerRun(name, self.model, root, settings, boot or self.boot, self.restored, requests=requests)
        return start(run, self.host, serving, self.work)

    @property
    def session(self) -> dict[str, Any]:
        """Session of the start that compiled."""
        found: dict[str, Any] = json.loads((self.work / "bake" / "session.json").read_text())
        return found


def bake_with_stand_in(folder: Path) -> TriedBake:
    """Bake and prove in `folder`."""
    model, out, work = folder / "model", folder / "out", folder / "work"
    for each in (model, out):
        each.mkdir()
    path = write_stand_in(folder / "vllm")
    host = ServerHost(sys.executable, Isolation((), str(model)), (str(path),), seconds=60)
    return bake_in(SPEC, host, model, work, out)


def bake_in(
    spec: bake.BakeSpec, host: ServerHost, model: Path, work: Path, out: Path, reference: Reference | None = None
) -> TriedBake:
    """Bake and prove `spec` with `host`."""
    verdict = bake.bake_and_prove(spec, "cpu", model, host, work, out, reference)
    return TriedBake(spec, verdict, out, work, host, model)
