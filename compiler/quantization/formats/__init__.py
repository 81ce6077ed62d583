"""Number formats of weights, activations and caches. Each file defines one as `FORMAT`.

The folder is the registry: a file `int8.py` is the format `int8`. Files are imported on demand.
"""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from typing import TYPE_CHECKING

from compiler.errors import UsageError

if TYPE_CHECKING:
    from compiler.quantization.format import Format, Product


def available() -> tuple[str, ...]:
    """Names of all formats."""
    return _listed(tuple(__path__))


@cache
def _listed(folders: tuple[str, ...]) -> tuple[str, ...]:
    # Once: a source tree that is updated under a running process has moments without a file.
    return tuple(sorted(module.name for module in pkgutil.iter_modules(folders)))


def load(name: str) -> Format:
    """Load the format from the file of that name. Raises UsageError."""
    if name not in available():
        raise UsageError(f"no number format is called `{name}`", hint=f"formats: {', '.join(available())}")
    found: Format = importlib.import_module(f"{__name__}.{name}").FORMAT
    return found


def products() -> dict[str, tuple[Format, Product]]:
    """Products with quantized weights, by name, each with the format of the weights."""
    return {product.name: (form, product) for form in map(load, available()) for product in form.products}
