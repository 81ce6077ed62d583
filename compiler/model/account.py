"""Accounting of a checkpoint: every tensor is used once or ignored explicitly, and every role is filled.

checkpoint names and shapes --patterns of the recipe--> sources of each Map --to_roles--> one Lazy per canonical tensor
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from compiler.errors import AccountingError
from compiler.model.config import ModelConfig
from compiler.model.lazy import Lazy, whole
from compiler.model.ops import Program, inverse, run
from compiler.model.recipe import Map, Recipe, to_roles
from compiler.model.roles import TensorId, axis_sizes, model_tensors, shape_of


class Header(Protocol):
    """Entry of one tensor in a checkpoint's header."""

    @property
    def dtype(self) -> str: ...
    @property
    def shape(self) -> tuple[int, ...]: ...


@dataclass(frozen=True)
class Use:
    """One application of a Map: its sources in order, its program, and the canonical tensors that result."""

    sources: tuple[str, ...]
    program: Program
    outputs: tuple[TensorId, ...]


@dataclass(frozen=True)
class Account:
    """Result of the accounting. `redundant`: head tensors that repeat the embedding of a tied model."""

    tensors: dict[TensorId, Lazy]
    uses: tuple[Use, ...]
    redundant: tuple[str, ...]
    ignored: tuple[str, ...]


_Key = tuple[int, int | None, str]  # index of the Map, layer, part


def account(recipe: Recipe, config: ModelConfig, headers: Mapping[str, Header]) -> Account:
    """Assign every tensor of `headers` to the canonical tensors of `config`.

    Raises:
        AccountingError: a list of all tensors that no rule reads, roles without a tensor, and wrong shapes.
    """
    matched = _matched(recipe, headers)
    problems = list(matched.problems)
    wanted, sizes = set(model_tensors(config)), axis_sizes(config)
    tensors: dict[TensorId, Lazy] = {}
    uses: list[Use] = []
    redundant: list[str] = []
    programs: dict[tuple[int, str], Program] = {}
    for (index, layer, part), names in matched.sources.items():
        mapping = recipe.patterns[index][1]
        outputs = tuple(TensorId(role, part, layer) for role in mapping.role_names)
        sources = tuple(names[i] for i in sorted(names))
        if config.tied and mapping.role_names == ("head",) and part == "weight":
            redundant += sources
            continue
        if not wanted.issuperset(outputs):
            problems += [f"`{s}` fills {', '.join(map(str, outputs))}, which this model lacks" for s in sources]
            continue
        program = programs.setdefault((index, part), _program(mapping, part, config))
        problem = _shape_problem(mapping, part, names, headers, config, program)
        if problem:
            problems.append(problem)
            continue
        given = run(program, [whole(s, tuple(headers[s].shape), headers[s].dtype) for s in sources])
        for output, tensor in zip(outputs, given, strict=True):
            if output in tensors:
                problems.append(f"{output} is filled twice")
            tensors[output] = tensor
            assert tensor.shape == shape_of(output, sizes), (output, tensor.shape)
        uses.append(Use(sources, program, outputs))
    accounted = {TensorId(role, part, layer) for index, layer, part in matched.sources
                 for role in recipe.patterns[index][1].role_names}  # fmt: skip
    problems += [f"nothing in the checkpoint fills {t}" for t in model_tensors(config) if t not in accounted]
    _refuse(problems)
    return Account(tensors, tuple(uses), tuple(redundant), matched.ignored)


@dataclass(frozen=True)
class _Matched:
    """Names of a checkpoint's tensors, by rule and by expert (0 without experts)."""

    sources: Mapping[_Key, Mapping[int, str]]
    ignored: tuple[str, ...]
    problems: tuple[str, ...]


def _matched(recipe: Recipe, headers: Mapping[str, Header]) -> _Matched:
    problems: list[str] = []
    ignored: list[str] = []
    found: dict[_Key, dict[int, str]] = defaultdict(dict)
    for name in sorted(headers):
        hits = [(i, m) for i, (pattern, _) in enumerate(recipe.patterns) if (m := pattern.fullmatch(name))]
        if any(pattern.fullmatch(name) for pattern in recipe.ignored):
            ignored.append(name)
        elif len(hits) > 1:
            problems.append(f"{len(hits)} rules of the recipe match `{name}`")
        elif not hits:
            problems.append(f"no rule matches `{name}` {headers[name].dtype} {list(headers[name].shape)}")
        else:
            index, match = hits[0]
            groups = match.groupdict()
            layer = int(groups["layer"]) if groups.get("layer") else None
            expert = int(groups.get("expert") or 0)
            names = found[(index, layer, groups["part"] or "weight")]
            if expert in names:
                problems.append(f"`{name}` and `{names[expert]}` are the same tensor with and without the prefix")
            names[expert] = name
    return _Matched(found, tuple(ignored), tuple(problems))


def _refuse(problems: list[str]) -> None:
    if not problems:
        return
    shown = "\n".join(f"  {p}" for p in problems[:40])
    more = f"\n  ... and {len(problems) - 40} more" if len(problems) > 40 else ""
    raise AccountingError(
        f"the checkpoint does not match its recipe in {len(problems)} place(s):\n{shown}{more}",
        hint="the download is incomplete, or this is another architecture than config.json says",
    )


def _program(mapping: Map, part: str, config: ModelConfig) -> Program:
    return to_roles(mapping, part, "{expert}" in mapping.source, config)


def _shape_problem(
    mapping: Map,
    part: str,
    names: Mapping[int, str],
    headers: Mapping[str, Header],
    config: ModelConfig,
    program: Program,
) -> str | None:
    """Text of a problem with the tensors of one use, None without one."""
    if "{expert}" in mapping.source and sorted(names) != list(range(config.experts)):
        lost = sorted(set(range(config.experts)) - set(names)) or sorted(names)[config.experts :]
        return f"`{mapping.source}`: expected experts 0 to {config.experts - 1}, wrong or missing: {lost}"
    sizes = axis_sizes(config)
    targets = [whole("", shape_of(TensorId(role, part, 0), sizes), "F32") for role in mapping.role_names]
    expected = run(inverse(program), targets)
    dtypes = {headers[name].dtype for name in names.values()}
    for (_, name), tensor in zip(sorted(names.items()), expected, strict=True):
        if tuple(headers[name].shape) != tensor.shape:
            return f"`{name}`: expected shape {list(tensor.shape)}, found {list(headers[name].shape)}"
    if len(dtypes) > 1:
        return f"`{mapping.source}`: the experts have different dtypes: {', '.join(sorted(dtypes))}"
    return None
