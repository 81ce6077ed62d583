"""Description of models: roles with named axes, layout ops, recipes. No files, no toolchain.

Recipes use the names exported here and no others.
"""

from compiler.model.config import ConfigMap, Traits
from compiler.model.places import Default, Flag, Half, Times
from compiler.model.recipe import Map, Recipe, Variant

__all__ = ["ConfigMap", "Default", "Flag", "Half", "Map", "Recipe", "Times", "Traits", "Variant"]
