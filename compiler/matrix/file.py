"""builds.toml: a list of artifacts to build. Its keys are the options of `lmi-compile build`.

[defaults]                      # of every build
max-batch = 8

[[build]]
model = "mixtral"               # --model mixtral
revision = "41bd4c9e7e4fb318ca40e721131d4933966c2cc1"
tp = [2, 4]                     # a list: one build for each
quant = ["none", "fp8"]         # two lists: one build for each pair

[[build]]
name = "small"                  # name of the artifact [default: MODEL-TARGET-tpN and the other options that vary]
model = "./checkpoints/small"
ignore-eos = true               # an option without a value

[build.fleet]                   # of this build: image and resources, see cell.KEYS
instance = "ml.g5.12xlarge"
gpus = 4
stages = ["convert", "build", "prove"]      # cells of their own, see stages.py [default: ["build"]]

[build.fleet.convert]           # of one stage
instance = "ml.m7i.4xlarge"

[fleet]                         # of every build
image = "123456789012.dkr.ecr.us-east-1.amazonaws.com/lmi-compile:1"

[fleet.sagemaker]               # options of an engine (executors/)
role = "arn:aws:iam::123456789012:role/builder"
"""

from __future__ import annotations

import difflib
import itertools
import re
import tomllib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler import targets
from compiler.errors import UsageError
from compiler.matrix.cell import KEYS, STAGES
from compiler.matrix.names import FORMATS, NAMES
from compiler.matrix.stages import cell_names

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ENGINES = tuple(dict.fromkeys((*NAMES, *FORMATS)))
"""Engines that may have options, [fleet.NAME]."""
OURS = frozenset({"output", "json", "until", "force", "dry-run", "help"})
"""Options of `build` that the matrix sets itself."""

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True)
class BuildEntry:
    """One artifact. `options`: options of `lmi-compile build` without `--`, sorted; True for one without a value.
    `fleet`: image and resources (cell.KEYS).
    """

    name: str
    options: tuple[tuple[str, str | bool], ...]
    fleet: tuple[tuple[str, Any], ...] = ()

    @property
    def words(self) -> tuple[str, ...]:
        """The options as words of a command line."""
        return tuple(
            word
            for name, value in self.options
            for word in ([f"--{name}"] if value is True else [f"--{name}", str(value)])
        )

    def option(self, name: str, default: str = "") -> str:
        return str(dict(self.options).get(name, default))


def read_builds(path: Path, allowed: Iterable[str]) -> tuple[BuildEntry, ...]:
    """Entries of the file, in its order. `allowed`: options of `lmi-compile build`, without `--`.

    Raises UsageError with a list of all faults of the file.
    """
    found = _read(path)
    names = sorted(set(allowed) - OURS)
    others = sorted(found.keys() - {"defaults", "build", "fleet"})
    problems = [f"`{key}`: expected only [defaults], [fleet] and [[build]]" for key in others]
    defaults, builds = found.get("defaults", {}), found.get("build", [])
    if not isinstance(defaults, dict) or not isinstance(builds, list) or not builds:
        problems.append("expected a table [defaults] and at least one table [[build]]")
        defaults, builds = {}, []
    entries: list[BuildEntry] = []
    problems += _unknown("[defaults]", defaults, names)
    of_all = {key: value for key, value in found.get("fleet", {}).items() if key not in ENGINES}
    problems += _wrong_resources("[fleet]", of_all)
    for index, table in enumerate(builds):
        where = f"[[build]] {index + 1}"
        if not isinstance(table, dict) or "model" not in {**defaults, **table}:
            problems.append(f"{where}: expected a table with `model`")
            continue
        fleet, table = table.get("fleet", {}), {key: value for key, value in table.items() if key != "fleet"}
        problems += [*_unknown(where, table, names), *_wrong_resources(f"{where} fleet", fleet)]
        resources = tuple(sorted({**of_all, **fleet}.items())) if isinstance(fleet, dict) else ()
        entries += [replace(entry, fleet=resources) for entry in _multiplied({**defaults, **table})]
    problems += _named_twice(entries)
    if problems:
        hint = "keys are the long options of `lmi-compile build`, without `--`"
        raise UsageError("\n".join([f"{path}:", *(f"  {problem}" for problem in problems)]), hint=hint)
    return tuple(entries)


def read_engines(path: Path) -> dict[str, dict[str, Any]]:
    """Options of each engine: [fleet.NAME]. Raises UsageError."""
    tables = {name: _read(path).get("fleet", {}).get(name, {}) for name in ENGINES}
    if wrong := [name for name, table in tables.items() if not isinstance(table, dict)]:
        raise UsageError(f"{path}: `fleet.{wrong[0]}`: expected a table", hint=f"begin it with [fleet.{wrong[0]}]")
    return tables


def chosen(entries: tuple[BuildEntry, ...], only: Iterable[str]) -> tuple[BuildEntry, ...]:
    """Entries that `only` names, or all entries where it is empty. Raises UsageError."""
    wanted = list(only)
    known = {entry.name: entry for entry in entries}
    if unknown := [name for name in wanted if name not in known]:
        raise UsageError(f"no build is called {', '.join(unknown)}", hint=f"there are: {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(wanted)) if wanted else entries


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}", hint="`--file` takes a builds.toml") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not TOML: {error}", hint="mend the file at that place") from None


def _wrong_resources(where: str, table: Any) -> list[str]:
    if not isinstance(table, dict):
        return [f"{where}: expected a table"]
    problems = []
    for key, value in table.items():
        kind = KEYS.get(key)
        if kind is None:
            problems.append(f"{where}: no resource is called `{key}`; there are {', '.join(KEYS)}")
        elif not isinstance(value, (int, float) if kind is float else kind):
            problems.append(f"{where}: `{key}`: expected {kind.__name__}, found {value!r}")
        elif key in STAGES:
            problems += _wrong_resources(f"{where} {key}", value)
    stages = table.get("stages", ["build"])
    if isinstance(stages, list) and ("build" not in stages or [one for one in stages if one not in STAGES]):
        problems.append(f"{where}: `stages`: expected `build` and others of {', '.join(STAGES)}; found {stages!r}")
    return problems


def _unknown(where: str, table: Mapping[str, Any], names: list[str]) -> list[str]:
    problems = []
    for key, value in table.items():
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            meant = f"; did you mean `{near[0]}`?" if near else ""
            problems.append(f"{where}: `lmi-compile build` has no option `{key}`{meant}")
        elif not all(isinstance(one, str | int | float) for one in (value if isinstance(value, list) else [value])):
            problems.append(f"{where}: `{key}`: expected a word, a number, true, or a list of these")
    return problems


def _multiplied(table: Mapping[str, Any]) -> list[BuildEntry]:
    """One entry for every combination of the values in the table's lists."""
    lists = {key: value for key, value in table.items() if isinstance(value, list)}
    entries = []
    for choice in itertools.product(*lists.values()):
        options = {**table, **dict(zip(lists, choice, strict=True))}
        given = {key: value if value is True else str(value) for key, value in options.items() if value is not False}
        name = _name(given, list(lists))
        entries.append(
            BuildEntry(name, tuple(sorted((*((k, v) for k, v in given.items() if k != "name"), ("name", name)))))
        )
    return entries


def _name(options: Mapping[str, str | bool], varying: list[str]) -> str:
    """Name of an artifact: `name` or MODEL-TARGET-tpN, then the values of the varying options that are not in it."""
    words = {key: str(options[key]) for key in varying if key != "name" and key in options}
    if "tp" in words:
        words["tp"] = f"tp{words['tp']}"
    if "name" in options:
        return "-".join([str(options["name"]), *words.values()])
    model, target = Path(str(options["model"]).rstrip("/")).name, str(options.get("target", targets.DEFAULT))
    named = [model, target, f"tp{options.get('tp', 1)}"]
    return "-".join([*named, *(word for key, word in words.items() if key not in ("model", "target", "tp"))])


def _named_twice(entries: list[BuildEntry]) -> list[str]:
    names = cell_names(entries)
    bad = [name for name in names if not _NAME.fullmatch(name)]
    twice = sorted({name for name in names if names.count(name) > 1})
    return [
        *(f"`{name}` cannot name an artifact: letters, digits, `.`, `_`, `-`" for name in bad),
        *(f"two builds are called `{name}`: give one a `name`" for name in twice),
    ]
