"""What a model is: roles with named axes, layout ops, recipes. No files, no toolchain.

The names below are what a recipe may use.
"""

from compiler.model.config import ConfigMap, Traits
from compiler.model.places import Default, Flag, Half
from compiler.model.recipe import Map, Recipe, Variant

__all__ = ["ConfigMap", "Default", "Flag", "Half", "Map", "Recipe", "Traits", "Variant"]
