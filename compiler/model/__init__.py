"""Description of models: roles with named axes, layout ops, recipes. No files, no toolchain.

Recipes use the names exported here and no others.
"""

from compiler.model.config import ACTIVATIONS, ConfigMap, Traits
from compiler.model.places import Constant, Default, Flag, Half, Layers, Power, Times
from compiler.model.recipe import Map, Recipe, Variant

__all__ = [
    "ACTIVATIONS", "ConfigMap", "Constant", "Default", "Flag", "Half", "Layers", "Map", "Power", "Recipe", "Times",
    "Traits", "Variant",
]  # fmt: skip
