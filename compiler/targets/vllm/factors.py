"""Factors of the key of vLLM's caches, as digests of values, and the names of those that differ between two starts.

Keys are not predicted: a key computed from vLLM's configuration was not the real one (0.32.0). The carrier records the
factors of real starts, and two of these are compared.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from compiler.targets.vllm.proof import Record

Factors = dict[str, dict[str, tuple[str, ...]]]
"""{group: {name: values of all processes, sorted}}. Groups: `key` (environment as vLLM hashes it), `config.<class>`,
`variables`, `paths`, `versions`, `device`.
"""

Keyed = Literal["vllm", "torch"]
"""Program whose key a cache has. vLLM's CPU platform keeps no cache of its own: torch's caches of graphs are all."""
_OF_VLLM = "torch_compile_cache/"
"""Folder of vLLM's own caches, below the root."""
_OF_TORCH = ("TORCH", "TRITON_")
"""Beginnings of variables that torch's configuration has, and so its key."""
_RECORDED = ("key", "config.", "variables", "versions", "device", "paths")
_CARRIER = "LMI_BOOT_"
_PLACES = frozenset(
    {"VLLM_CACHE_ROOT", "TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR", "DG_JIT_CACHE_DIR", "FLASHINFER_WORKSPACE_BASE"}
)
"""Variables with the places of caches, which a hit does not depend on."""
_OF_ONE_START = frozenset({"VLLM_DIST_IDENT", "VLLM_OBJECT_STORAGE_SHM_BUFFER_NAME"})
"""Variables that vLLM 0.32.0 sets itself, anew at each start, outside of the key."""


@dataclass(frozen=True)
class FactorDifference:
    """Factor that differs. `baked`, `found`: its values, "" for an absent one; digests unless a version or path.

    `decides`: whether it is in the key of the cache, by itself; others can explain such a one.
    """

    group: str
    name: str
    baked: str
    found: str
    decides: bool


def merged(records: Sequence[Record]) -> Factors:
    """Factors of the processes of a start that run a model, one for each rank; of all where none got so far.

    Only these make keys. Others have not read a model's configuration yet, and so other values of some variables.
    """
    models = [record for record in records if record["counters"].get("num_models_seen")]
    found: dict[str, dict[str, set[str]]] = {}
    for record in models or records:
        for group, values in record["factors"].items():
            if group.startswith(_RECORDED):
                for name, value in values.items():
                    found.setdefault(group, {}).setdefault(name, set()).add(value)
    return {
        group: {name: tuple(sorted(values)) for name, values in sorted(names.items()) if _kept(name)}
        for group, names in sorted(found.items())
    }


def _kept(name: str) -> bool:
    """Whether a factor belongs in an artifact: places of the build's own folders do not, and names of one start."""
    return name not in _PLACES | _OF_ONE_START and not name.startswith(_CARRIER)


def keyed_by(report: Mapping[str, Any]) -> Keyed:
    """Program whose key the cache of a report has, see bake.py."""
    return "vllm" if any(file["path"].startswith(_OF_VLLM) for file in report["files"]) else "torch"


def variables_in(key: Keyed, factors: Factors) -> dict[str, str]:
    """Digests of the variables of a bake that are in the key, by name."""
    of_vllm = factors.get("key", {})
    return {
        name: values[0]
        for name, values in factors.get("variables", {}).items()
        if (name in of_vllm if key == "vllm" else name.startswith(_OF_TORCH))
    }


def may_count(key: Keyed, variable: str) -> bool:
    """Whether a variable that a bake did not have can be in the key."""
    return variable.startswith("VLLM_" if key == "vllm" else _OF_TORCH) and _kept(variable)


def differences(baked: Factors, found: Factors, key: Keyed = "vllm") -> tuple[FactorDifference, ...]:
    """Factors that differ, those that decide first. `key`: program whose key the cache has."""
    every = [
        FactorDifference(group, name, _text(baked, group, name), _text(found, group, name), _decides(group, name, key))
        for group, name in _names(baked, found)
        if _text(baked, group, name) != _text(found, group, name)
    ]
    return tuple(sorted(every, key=lambda each: (not each.decides, each.group, each.name)))


def _names(baked: Factors, found: Factors) -> Iterator[tuple[str, str]]:
    for group in sorted({*baked, *found}):
        if (group in baked) != (group in found) and group.startswith("config."):
            yield group, ""  # a process that ended before it made this part of the configuration
            continue
        for name in sorted({*baked.get(group, {}), *found.get(group, {})}):
            twice = group == "variables" and name in {*baked.get("key", {}), *found.get("key", {})}
            if _kept(name) and not twice:
                yield group, name


def _text(factors: Factors, group: str, name: str) -> str:
    return ", ".join(factors.get(group, {}).get(name, ()))


def _decides(group: str, name: str, key: Keyed) -> bool:
    if key == "torch" and group in ("key", "variables"):
        return name.startswith(_OF_TORCH)
    return group in ("key", "versions", "paths") or group.startswith("config.")


def read_factors(data: Mapping[str, Mapping[str, Sequence[str]]]) -> Factors:
    """Factors of their JSON."""
    return {group: {name: tuple(values) for name, values in names.items()} for group, names in data.items()}
