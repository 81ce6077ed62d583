"""Options of target `inductor`, all derived: a model is split by tp alone."""

from __future__ import annotations

from dataclasses import dataclass

from compiler.targets.options import TargetOptions


@dataclass(frozen=True)
class InductorOptions(TargetOptions):
    """Options of target `inductor`. `products`: name of the linear layers' product (`compiler.decoder.quantized`);
    `cache`: format of the KV cache, "" for the dtype of the model (`compiler.decoder.attention`).
    """

    products: str = "float"
    cache: str = ""


OPTIONS = InductorOptions
PLAIN = InductorOptions()
