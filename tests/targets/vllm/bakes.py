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

SERVING = Serving(tp=1, dtype="bfloat16", max_model_len=64, max_num_seqs=2, max_num_batched_tokens=64, block_size=16)
SPEC = bake.BakeSpec(SERVING, "M", plan="plan", source="source", vocab=100, image={})


@dataclass(frozen=True)
class StandInBake:
    """A bake by the stand-in. `out`: archive and report; `boot`: folder with carrier, archive and draft manifest."""

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
    def restored(self) -> frozenset[str]:
        """Paths below the root that the carrier restores."""
        return frozenset(file["path"] for file in self.report["files"])

    def start(
        self, name: str, more: Mapping[str, str], *, root: Path | None = None, serving: Serving = SERVING
    ) -> Start:
        """Another start from the cache, with more environment."""
        root = root or self.work / f"{name}-root" / "cache"
        settings = {**pinned("M", "cpu", str(root), {}), **more}
        serving = replace(serving, model=str(self.model))
        requests = workload(serving.model, SPEC.vocab, 48, 2)
        run = ServerRun(name, self.model, root, settings, self.boot, self.restored, requests=requests)
        return start(run, self.host, serving, self.work)

    @property
    def session(self) -> dict[str, Any]:
        """Session of the start that compiled."""
        found: dict[str, Any] = json.loads((self.work / "bake" / "session.json").read_text())
        return found


def bake_with_stand_in(folder: Path) -> StandInBake:
    """Bake and prove in `folder`."""
    model, out, work = folder / "model", folder / "out", folder / "work"
    for each in (model, out):
        each.mkdir()
    path = write_stand_in(folder / "vllm")
    host = ServerHost(sys.executable, Isolation((), str(model)), (str(path),), seconds=60)
    verdict = bake.bake_and_prove(SPEC, "cpu", model, host, work, out)
    return StandInBake(verdict, out, work, host, model)
