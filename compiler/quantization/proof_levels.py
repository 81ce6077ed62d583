"""Extents of the numerics gate (`numerics/gate`): how much of a model and of a text `--proof` measures. Data only."""

from __future__ import annotations

from dataclasses import dataclass

STANDARD = "standard"
CPU, CUDA = "cpu", "cuda"
PROOF_DEVICES = (CPU, CUDA)
"""Values of `--proof-device`, the default first."""


@dataclass(frozen=True)
class ProofLevel:
    """Extent of the gate. `tokens`: of the held-out text at first, `most`: where an interval cannot decide before.
    `part_tokens`: tokens over which parts of layers are compared with their scheme; `layers`: number of layers in which
    they are, chosen at random besides the first, the last and the widest; None: all.
    """

    tokens: int
    most: int
    part_tokens: int
    layers: int | None = None


PROOFS = {
    "quick": ProofLevel(tokens=512, most=1024, part_tokens=256, layers=5),
    STANDARD: ProofLevel(tokens=2048, most=8192, part_tokens=512),
    "full": ProofLevel(tokens=8192, most=32768, part_tokens=2048),
}
"""Extents by the value of `--proof`."""
