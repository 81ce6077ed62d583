from dataclasses import dataclass

from compiler.targets.options import TargetOptions, option


@dataclass(frozen=True)
class ToyOptions(TargetOptions):
    cores: int = option(1, "Cores of the toy.")


OPTIONS = ToyOptions
