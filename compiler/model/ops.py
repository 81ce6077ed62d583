"""Layout operations as data. Each moves elements, changes no bit, and has an inverse.

| op                       | tensors in -> out | inverse                | uses                                    |
|--------------------------|-------------------|------------------------|-----------------------------------------|
| Rearrange(pattern)       | n -> n            | the pattern reversed   | transpose, group and ungroup axes       |
| Split(axis, sizes)       | 1 -> n            | Concat(axis, sizes)    | fused q k v, gate and up in one matrix  |
| Stack()                  | n -> 1            | Unstack(n)             | experts stored one by one               |
| Repeat(axis, times)      | 1 -> 1            | Unrepeat               | a kv head on several ranks              |
| Pad(axis, size, to)      | 1 -> 1            | Trim                   | vocabulary to a multiple of tp          |
| Shard(axis, parts)       | n -> n x parts    | Gather(axis, parts)    | tensor and expert parallelism           |
| Replicate(parts)         | 1 -> parts        | Unreplicate(parts)     | tensors that every rank holds whole     |
| OnFirst(parts)           | 1 -> parts        | FromFirst(parts)       | a bias added on rank 0, zeros elsewhere |
| Each(programs)           | n -> m            | Each of the inverses   | different ops for the tensors of a list |

A program is a tuple of ops; `run` evaluates it on lists of `Lazy`, `inverse` inverts it. Unrepeat, Unreplicate,
FromFirst and Trim read the first copy (the unpadded part). To check that the copies agree, run the program forward
again and compare, as the round-trip test and `verify` do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from math import prod
from typing import cast

from compiler.model import lazy
from compiler.model.lazy import Lazy


@dataclass(frozen=True)
class Rearrange:
    """Permutation and (un)grouping of axes: `"(heads head_dim) hidden -> heads head_dim hidden"`.

    `sizes`: size of every name in a group.
    """

    pattern: str
    sizes: tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Split:
    axis: int
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Concat:
    axis: int
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Stack:
    parts: int


@dataclass(frozen=True)
class Unstack:
    parts: int


@dataclass(frozen=True)
class Repeat:
    """Repeat every element of `axis` `times` times in a row."""

    axis: int
    times: int


@dataclass(frozen=True)
class Unrepeat:
    axis: int
    times: int


@dataclass(frozen=True)
class Pad:
    axis: int
    size: int
    to: int


@dataclass(frozen=True)
class Trim:
    axis: int
    size: int
    to: int


@dataclass(frozen=True)
class Shard:
    """Split every tensor into `parts`. Two in a row make a grid, with the index of the second running fastest."""

    axis: int
    parts: int


@dataclass(frozen=True)
class Gather:
    axis: int
    parts: int


@dataclass(frozen=True)
class Replicate:
    parts: int


@dataclass(frozen=True)
class Unreplicate:
    parts: int


@dataclass(frozen=True)
class OnFirst:
    parts: int


@dataclass(frozen=True)
class FromFirst:
    parts: int


@dataclass(frozen=True)
class Each:
    """Apply the i-th program to the i-th tensor."""

    programs: tuple[Program, ...]


Op = (
    Rearrange | Split | Concat | Stack | Unstack | Repeat | Unrepeat | Pad | Trim | Shard | Gather | Replicate
    | Unreplicate | OnFirst | FromFirst | Each
)  # fmt: skip
Program = tuple[Op, ...]


def inverse(program: Program) -> Program:
    return tuple(_inverse(op) for op in reversed(program))


def _inverse(op: Op) -> Op:
    match op:
        case Rearrange(pattern, sizes):
            before, after = pattern.split("->")
            return Rearrange(f"{after.strip()} -> {before.strip()}", sizes)
        case Split(axis, sizes):
            return Concat(axis, sizes)
        case Concat(axis, sizes):
            return Split(axis, sizes)
        case Stack(parts):
            return Unstack(parts)
        case Unstack(parts):
            return Stack(parts)
        case Repeat(axis, times):
            return Unrepeat(axis, times)
        case Unrepeat(axis, times):
            return Repeat(axis, times)
        case Pad(axis, size, to):
            return Trim(axis, size, to)
        case Trim(axis, size, to):
            return Pad(axis, size, to)
        case Shard(axis, parts):
            return Gather(axis, parts)
        case Gather(axis, parts):
            return Shard(axis, parts)
        case Replicate(parts):
            return Unreplicate(parts)
        case Unreplicate(parts):
            return Replicate(parts)
        case OnFirst(parts):
            return FromFirst(parts)
        case FromFirst(parts):
            return OnFirst(parts)
        case Each(programs):
            return Each(tuple(inverse(p) for p in programs))


def run(program: Program, tensors: Sequence[Lazy]) -> list[Lazy]:
    """Evaluate `program`. Raises ValueError where a size does not fit: a bug of the caller, not of the user."""
    current = list(tensors)
    for op in program:
        current = _apply(op, current)
    return current


def _apply(op: Op, tensors: list[Lazy]) -> list[Lazy]:
    match op:
        case Rearrange(pattern, sizes):
            return [_rearrange(t, pattern, sizes) for t in tensors]
        case Split(axis, sizes):
            return _split(_only(op, tensors), axis, sizes)
        case Concat(axis, _):
            return [lazy.concat(tensors, axis)]
        case Stack(parts):
            if len(tensors) != parts:
                raise ValueError(f"{op} got {len(tensors)} tensors")
            return [lazy.concat([lazy.insert_axis(t, 0, 1) for t in tensors], 0)]
        case Unstack(parts):
            one = _only(op, tensors)
            return [lazy.flatten(lazy.take(one, 0, i, i + 1), 0) for i in range(parts)]
        case Repeat(axis, times):
            return [lazy.flatten(lazy.insert_axis(_only(op, tensors), axis + 1, times), axis)]
        case Unrepeat(axis, times):
            rows = lazy.unflatten(_only(op, tensors), axis, times)
            return [lazy.flatten(lazy.take(rows, axis + 1, 0, 1), axis)]
        case Pad(axis, size, to):
            one = _only(op, tensors)
            if one.shape[axis] != size or to < size:
                raise ValueError(f"{op} got shape {one.shape}")
            return [lazy.pad(one, axis, to)]
        case Trim(axis, size, _):
            return [lazy.take(_only(op, tensors), axis, 0, size)]
        case Shard(axis, parts):
            if any(one.shape[axis] % parts for one in tensors):
                raise ValueError(f"{op}: axis of {tensors[0].shape[axis]} does not divide")
            return [part for one in tensors for part in _split(one, axis, (one.shape[axis] // parts,) * parts)]
        case Gather(axis, parts):
            if len(tensors) % parts:
                raise ValueError(f"{op} got {len(tensors)} tensors")
            return [lazy.concat(tensors[i : i + parts], axis) for i in range(0, len(tensors), parts)]
        case Replicate(parts):
            return [_only(op, tensors)] * parts
        case OnFirst(parts):
            one = _only(op, tensors)
            return [one, *[replace(one, pieces=())] * (parts - 1)]
        case Unreplicate() | FromFirst():
            return [tensors[0]]
        case Each(programs):
            return [one for p, tensor in zip(programs, tensors, strict=True) for one in run(p, [tensor])]


def _only(op: Op, tensors: list[Lazy]) -> Lazy:
    if len(tensors) != 1:
        raise ValueError(f"{op} takes one tensor, got {len(tensors)}")
    return tensors[0]


def _split(tensor: Lazy, axis: int, sizes: tuple[int, ...]) -> list[Lazy]:
    if sum(sizes) != tensor.shape[axis]:
        raise ValueError(f"axis {axis} of {tensor.shape} does not split into {sizes}")
    parts, start = [], 0
    for size in sizes:
        parts.append(lazy.take(tensor, axis, start, start + size))
        start += size
    return parts


Groups = tuple[tuple[str, ...], ...]


@cache
def parse_pattern(pattern: str) -> tuple[Groups, Groups]:
    """Parse `"(a b) c -> c a b"` to ((("a", "b"), ("c",)), (("c",), ("a",), ("b",)))."""
    before, after = (_groups(side) for side in pattern.split("->"))
    names = [[n for g in side for n in g] for side in (before, after)]
    if sorted(names[0]) != sorted(names[1]) or len(set(names[0])) != len(names[0]):
        raise ValueError(f"both sides of `{pattern}` must have the same names, each once")
    return before, after


def _groups(side: str) -> Groups:
    groups: list[tuple[str, ...]] = []
    inside: list[str] | None = None
    for word in side.replace("(", " ( ").replace(")", " ) ").split():
        if word == "(":
            inside = []
        elif word == ")":
            groups.append(tuple(cast("list[str]", inside)))
            inside = None
        elif inside is None:
            groups.append((word,))
        else:
            inside.append(word)
    return tuple(groups)


def _rearrange(tensor: Lazy, pattern: str, sizes: tuple[tuple[str, int], ...]) -> Lazy:
    before, after = parse_pattern(pattern)
    size = dict(sizes)
    expected = tuple(prod(size[name] for name in group) if all(n in size for n in group) else -1 for group in before)
    if len(before) != len(tensor.shape) or any(
        e not in (-1, found) for e, found in zip(expected, tensor.shape, strict=True)
    ):
        raise ValueError(f"`{pattern}` with {size} does not fit shape {tensor.shape}")
    axis = 0
    for group in before:
        for i, _ in enumerate(group[:-1]):
            tensor = lazy.unflatten(tensor, axis + i, prod(size[name] for name in group[i + 1 :]))
        axis += len(group)
    names = [name for group in before for name in group]
    order = tuple(names.index(name) for group in after for name in group)
    if order != tuple(range(len(order))):
        tensor = lazy.permute(tensor, order)
    for axis, group in enumerate(after):
        for _ in group[1:]:
            tensor = lazy.flatten(tensor, axis)
    return tensor
