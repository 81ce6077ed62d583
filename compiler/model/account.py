"""Accounting of a checkpoint: every tensor is used once or ignored explicitly, and every role is filled.

checkpoint names and shapes --patterns of the recipe--> sources of each Map --to_roles--> one Lazy per canonical tensor
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, replace

from compiler.model.config import ModelConfig
from compiler.model.header import Header
from compiler.model.lazy import Lazy, whole
from compiler.model.mismatch import Mismatch, refusal
from compiler.model.ops import Program, inverse, run
from compiler.model.programs import to_roles
from compiler.model.recipe import Map, Recipe
from compiler.model.roles import ROLES, TensorId, axis_sizes, model_tensors, shape_of


@dataclass(frozen=True)
class Use:
    """One application of a Map: its sources in order, its program, and the canonical tensors that result."""

    sources: tuple[str, ...]
    program: Program
    outputs: tuple[TensorId, ...]


@dataclass(frozen=True)
class Account:
    """Result of the accounting. `redundant`: head tensors that repeat the embedding of a tied model; `notes`: sentences
    on decisions.
    """

    tensors: dict[TensorId, Lazy]
    uses: tuple[Use, ...]
    redundant: tuple[str, ...]
    ignored: tuple[str, ...]
    notes: tuple[str, ...] = ()


_Key = tuple[int, int | None, str]  # index of the Map, layer, part


def account(recipe: Recipe, config: ModelConfig, headers: Mapping[str, Header]) -> Account:
    """Assign every tensor of `headers` to the canonical tensors of `config`.

    A tied model whose file has only the head: the head is the embedding, too, as in transformers 5.

    Raises:
        AccountingError: the likely cause, and all tensors that no rule reads, roles without a tensor, wrong shapes.
    """
    matched = _matched(recipe, headers)
    mismatch = matched.mismatch
    wanted, sizes = set(model_tensors(config)), axis_sizes(config)
    only_head = config.tied and _EMBEDDING not in {_outputs(recipe, key) for key in matched.sources}
    tensors: dict[TensorId, Lazy] = {}
    uses: list[Use] = []
    redundant: list[str] = []
    notes: list[str] = []
    accounted: set[TensorId] = set()
    programs: dict[tuple[int, str], Program] = {}
    for key, names in matched.sources.items():
        index, _, part = key
        mapping, outputs = recipe.patterns[index][1], _outputs(recipe, key)
        sources = tuple(names[i] for i in sorted(names))
        if config.tied and outputs == _HEAD:
            if not only_head:
                redundant += sources
                continue
            mapping, outputs = replace(mapping, roles="embed"), _EMBEDDING
            notes.append(f"`{sources[0]}` is the embedding, too: config.json ties them, and only the head is stored")
        if not wanted.issuperset(outputs):
            mismatch.surplus += [(source, outputs[0]) for source in sources]
            continue
        program = programs.setdefault((index, part), to_roles(mapping, part, config))
        problem = _shape_problem(mapping, part, names, headers, config, program)
        if problem:
            mismatch.others.append(problem)
        else:
            given = run(program, [whole(s, tuple(headers[s].shape), headers[s].dtype) for s in sources])
            for output, tensor in zip(outputs, given, strict=True):
                assert tensor.shape == shape_of(output, sizes), (output, tensor.shape)
                if output in tensors:
                    mismatch.others.append(f"{output} is filled twice")
                tensors[output] = tensor
            uses.append(Use(sources, program, outputs))
        accounted.update(outputs)
    mismatch.unfilled += [t for t in model_tensors(config) if t not in accounted]
    if mismatch.places:
        raise refusal(recipe, config, sorted(headers), mismatch)
    return Account(tensors, tuple(uses), tuple(redundant), matched.ignored, tuple(notes))


_EMBEDDING = (TensorId("embed"),)
_HEAD = (TensorId("head"),)


def _outputs(recipe: Recipe, key: _Key) -> tuple[TensorId, ...]:
    index, layer, part = key
    return tuple(TensorId(role, part, layer) for role in recipe.patterns[index][1].role_names)


def filled_by(recipe: Recipe, config: ModelConfig, name: str) -> bool:
    """Whether a tensor of this name would fill a canonical tensor of the model."""
    for index, (pattern, _) in enumerate(recipe.patterns):
        if match := pattern.fullmatch(name):
            return set(model_tensors(config)).issuperset(_outputs(recipe, _key(index, match)))
    return False


@dataclass(frozen=True)
class _Matched:
    """Names of a checkpoint's tensors, by rule and by expert or head (0 without)."""

    sources: Mapping[_Key, Mapping[int, str]]
    ignored: tuple[str, ...]
    mismatch: Mismatch


def _matched(recipe: Recipe, headers: Mapping[str, Header]) -> _Matched:
    mismatch = Mismatch()
    ignored: list[str] = []
    found: dict[_Key, dict[int, str]] = defaultdict(dict)
    for name in sorted(headers):
        hits = [(i, m) for i, (pattern, _) in enumerate(recipe.patterns) if (m := pattern.fullmatch(name))]
        if any(pattern.fullmatch(name) for pattern in recipe.ignored):
            ignored.append(name)
        elif len(hits) > 1:
            mismatch.others.append(f"{len(hits)} rules of the recipe match `{name}`")
        elif not hits:
            mismatch.unmatched.append(name)
        else:
            index, match = hits[0]
            groups = match.groupdict()
            expert = int(groups.get("expert") or groups.get("head") or 0)
            names = found[_key(index, match)]
            if expert in names:
                mismatch.others.append(
                    f"`{name}` and `{names[expert]}` are the same tensor with and without the prefix"
                )
            names[expert] = name
    return _Matched(found, tuple(ignored), mismatch)


def _key(index: int, match: re.Match[str]) -> _Key:
    groups = match.groupdict()
    return index, int(groups["layer"]) if groups.get("layer") else None, groups["part"] or "weight"


def _shape_problem(
    mapping: Map,
    part: str,
    names: Mapping[int, str],
    headers: Mapping[str, Header],
    config: ModelConfig,
    program: Program,
) -> str | None:
    """Text of a problem with the tensors of one use, None without one."""
    sizes = axis_sizes(config)
    if mapping.by_expert or mapping.by_head:
        what, axis = ("experts", "experts") if mapping.by_expert else ("heads", ROLES[mapping.role_names[0]].axes[0])
        if sorted(names) != list(range(sizes[axis])):
            lost = sorted(set(range(sizes[axis])) - set(names)) or sorted(names)[sizes[axis] :]
            return f"`{mapping.source}`: expected {what} 0 to {sizes[axis] - 1}, wrong or missing: {lost}"
    # Shapes need no pieces, of which interleaved rows have one for each row.
    targets = [Lazy(shape_of(TensorId(role, part, 0), sizes), "F32", "F32", ()) for role in mapping.role_names]
    expected = run(inverse(program), targets)
    for (_, name), tensor in zip(sorted(names.items()), expected, strict=True):
        if tuple(headers[name].shape) != tensor.shape:
            return f"`{name}`: expected shape {list(tensor.shape)}, found {list(headers[name].shape)}"
    return None
