"""Options of target `inductor`: none but the derived ones; a model is split by tp alone."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.targets.options import TargetOptions


@dataclass(frozen=True)
class InductorOptions(TargetOptions):
    """`products`: how linear layers are computed (`compiler.decoder.quantized`); `cache`: format of the KV cache, ""
    for the dtype of the model (`compiler.decoder.attention`).
    """

    products: str = "float"
    cache: str = ""


OPTIONS = InductorOptions
PLAIN = InductorOptions()
