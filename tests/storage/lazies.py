"""Random `Lazy` tensors over random source tensors, built by the functions of `compiler/model/lazy.py`."""

from __future__ import annotations

from math import prod

from hypothesis import strategies as st

from compiler.model import lazy
from compiler.model.lazy import Lazy

Shapes = dict[str, tuple[int, ...]]


@st.composite
def plans(draw: st.DrawFn, dtype: str = "BF16") -> tuple[Shapes, Lazy]:
    """Random source shapes by name, and a random `Lazy` of `dtype` over them."""
    shapes: Shapes = {}

    def source() -> Lazy:
        shape = tuple(draw(st.lists(st.integers(1, 7), min_size=1, max_size=3)))
        shapes[f"t{len(shapes)}"] = shape
        return lazy.whole(f"t{len(shapes) - 1}", shape, dtype)

    tensor = source()
    for _ in range(draw(st.integers(0, 5))):
        axis = draw(st.integers(0, len(tensor.shape) - 1))
        size = tensor.shape[axis]
        match draw(st.sampled_from(["take", "pad", "permute", "unflatten", "flatten", "repeat", "concat"])):
            case "take":
                start = draw(st.integers(0, size - 1))
                tensor = lazy.take(tensor, axis, start, draw(st.integers(start + 1, size)))
            case "pad":
                tensor = lazy.pad(tensor, axis, size + draw(st.integers(0, 3)))
            case "permute":
                tensor = lazy.permute(tensor, tuple(draw(st.permutations(range(len(tensor.shape))))))
            case "unflatten" if len(tensor.shape) < 4:
                divisors = [n for n in range(1, size + 1) if size % n == 0]
                tensor = lazy.unflatten(tensor, axis, draw(st.sampled_from(divisors)))
            case "flatten" if axis < len(tensor.shape) - 1:
                tensor = lazy.flatten(tensor, axis)
            case "repeat" if prod(tensor.shape) < 1000 and len(tensor.shape) < 4:
                tensor = lazy.insert_axis(tensor, axis, draw(st.integers(1, 3)))
            case "concat" if prod(tensor.shape) < 1000:
                other = source()
                other = lazy.unflatten(other, 0, 1) if len(other.shape) < 2 else other
                first = tensor
                while len(first.shape) > 1:
                    first = lazy.flatten(first, 0)
                while len(other.shape) > 1:
                    other = lazy.flatten(other, 0)
                tensor = lazy.concat([first, other], 0)
            case _:
                pass
    return shapes, tensor
