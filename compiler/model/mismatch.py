"""Refusal of a checkpoint whose tensors do not match its recipe: the likely cause first, then the tensors in groups.

    the checkpoint does not match its recipe in 42 places: 21 names begin with `_orig_mod.`, which torch.compile adds
      no rule matches 18 tensors like `_orig_mod.model.layers.*.mlp.down_proj.weight`
      ...

Each cause is a function of DIAGNOSES that finds it or not; the first one found gives the hint.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from compiler.errors import AccountingError
from compiler.model.roles import TensorId

if TYPE_CHECKING:
    from compiler.model.config import ModelConfig
    from compiler.model.recipe import Recipe

_ONE_BY_ONE = 8
"""Number of places up to which each has a line of its own; more are grouped."""
_GROUPS = 5
"""Number of groups shown."""

PREFIXES = {
    "_orig_mod.": ("added by torch.compile", "save `model._orig_mod` instead of `model`"),
    "module.": ("added by DataParallel", "save `model.module` instead of `model`"),
    "base_model.model.": ("added by PEFT", "call `merge_and_unload()`, and save the model that it returns"),
    "language_model.": ("the text part of a multimodal model", "save that part by itself"),
    "model.language_model.": ("the text part of a multimodal model", "save that part by itself"),
}
"""Prefixes of tensor names: their origin, and how to save the model without them."""

LORA = re.compile(r"\.(lora_[AB]|lora_embedding_[AB]|lora_magnitude_vector|base_layer)\b")
QUANTIZED = re.compile(
    r"\.(qweight|qzeros|g_idx|weight_packed|weight_scale(_inv)?|weight_zero_point|absmax|quant_map|quant_state|SCB|W_q)\b"
)
_LAYER = re.compile(r"\.(\d+)\.")


@dataclass
class Mismatch:
    """Differences of a checkpoint from its recipe. `unmatched`: names that no rule reads; `surplus`: names, and the
    tensor that they would fill in another model; `unfilled`: tensors that nothing fills; `others`: further problems in
    words, such as shapes.
    """

    unmatched: list[str] = field(default_factory=list)
    surplus: list[tuple[str, TensorId]] = field(default_factory=list)
    unfilled: list[TensorId] = field(default_factory=list)
    others: list[str] = field(default_factory=list)

    @property
    def places(self) -> int:
        return len(self.unmatched) + len(self.surplus) + len(self.unfilled) + len(self.others)


@dataclass(frozen=True)
class Cause:
    """Likely cause of a mismatch, and the remedy."""

    text: str
    hint: str


def refusal(recipe: Recipe, config: ModelConfig, names: Sequence[str], mismatch: Mismatch) -> AccountingError:
    """The error for a mismatch. `names`: of all tensors of the checkpoint."""
    found = (diagnose(recipe, config, names, mismatch) for diagnose in DIAGNOSES)
    cause = next((one for one in found if one), None) or _unknown(mismatch)
    few = mismatch.places <= _ONE_BY_ONE
    lines, limit = (_one_by_one(mismatch), _ONE_BY_ONE) if few else (_grouped(mismatch), _GROUPS)
    shown = "\n".join(f"  {line}" for line in lines[:limit])
    more = f"\n  ... and {len(lines) - limit} more groups" if len(lines) > limit else ""
    title = f"the checkpoint does not match its recipe in {mismatch.places} place(s)"
    return AccountingError(f"{title}: {cause.text}\n{shown}{more}", hint=cause.hint)


def _one_by_one(mismatch: Mismatch) -> list[str]:
    return [
        *(f"no rule matches `{name}`" for name in mismatch.unmatched),
        *(f"`{name}` fills {tensor}, which this model lacks" for name, tensor in mismatch.surplus),
        *mismatch.others,
        *(f"nothing in the checkpoint fills {tensor}" for tensor in mismatch.unfilled),
    ]


def _grouped(mismatch: Mismatch) -> list[str]:
    """Lines of the kinds in turn, the largest groups of each first."""
    kinds = [
        _groups(mismatch.unmatched, "no rule matches {}"),
        _groups([name for name, _ in mismatch.surplus], "{} is of a part that this model lacks"),
        _groups(mismatch.others, "{}", quoted=False),
        _groups([str(tensor) for tensor in mismatch.unfilled], "nothing in the checkpoint fills {}", quoted=False),
    ]
    longest = max(map(len, kinds))
    return [lines[i] for i in range(longest) for lines in kinds if i < len(lines)]


def _groups(texts: Sequence[str], form: str, *, quoted: bool = True) -> list[str]:
    """One line for the texts that differ in numbers alone."""
    groups: dict[str, list[str]] = defaultdict(list)
    for text in texts:
        groups[re.sub(r"(?<=[.\s`])\d+(?=[.\s`])", "*", text)].append(text)
    ordered = sorted(groups.items(), key=lambda group: -len(group[1]))
    mark = "`" if quoted else ""
    return [
        form.format(
            f"{mark}{found[0]}{mark}" if len(found) == 1 else f"{len(found)} tensors like {mark}{pattern}{mark}"
        )
        for pattern, found in ordered
    ]


def _lora(_recipe: Recipe, _config: ModelConfig, names: Sequence[str], _mismatch: Mismatch) -> Cause | None:
    found = [name for name in names if LORA.search(name)]
    if not found:
        return None
    return Cause(
        f"{len(found)} tensors are of a LoRA adapter, such as `{found[0]}`",
        "merge the adapter into the model (PEFT's `merge_and_unload`), and save the model that it returns",
    )


def _quantized(_recipe: Recipe, _config: ModelConfig, names: Sequence[str], _mismatch: Mismatch) -> Cause | None:
    found = [name for name in names if QUANTIZED.search(name)]
    if not found:
        return None
    return Cause(
        f"{len(found)} tensors are of a quantized model, such as `{found[0]}`, and no `quantization_config` says how",
        "add the `quantization_config` of the program that quantized it to config.json, or use the original model",
    )


def _prefixed(recipe: Recipe, _config: ModelConfig, _names: Sequence[str], mismatch: Mismatch) -> Cause | None:
    """A common prefix that transformers does not strip either."""
    found: dict[str, int] = defaultdict(int)
    for name in mismatch.unmatched:
        parts = name.split(".")
        for count in range(1, min(4, len(parts))):
            if _read(recipe, ".".join(parts[count:])):
                found[".".join(parts[:count]) + "."] += 1
                break
    prefix = max(found, key=lambda one: found[one], default="")
    if not prefix or 2 * found[prefix] < len(mismatch.unmatched):
        return None
    shown = prefix + recipe.base_prefix if prefix == recipe.base_prefix else prefix
    origin, remedy = PREFIXES.get(prefix, ("which the recipe's names lack", "save the model without it"))
    return Cause(
        f"{found[prefix]} names begin with `{shown}`, {origin}",
        f"{remedy}, or rename the tensors: `name.removeprefix({prefix!r})`",
    )


def _headless(_recipe: Recipe, _config: ModelConfig, _names: Sequence[str], mismatch: Mismatch) -> Cause | None:
    if mismatch.places != 1 or mismatch.unfilled != [TensorId("head")]:
        return None
    return Cause(
        "the head (`lm_head`) is not stored, and config.json does not tie it to the embedding",
        'if the model shares them, set "tie_word_embeddings": true in config.json; else the head was not saved',
    )


def _more_layers(_recipe: Recipe, config: ModelConfig, _names: Sequence[str], mismatch: Mismatch) -> Cause | None:
    numbered = [(name, int(m[1])) for name in mismatch.unmatched if (m := _LAYER.search(name))]
    numbered += [(name, tensor.layer) for name, tensor in mismatch.surplus if tensor.layer is not None]
    beyond = sorted({layer for _, layer in numbered if layer >= config.layers})
    if not beyond or mismatch.unfilled:
        return None
    return Cause(
        f"config.json says `num_hidden_layers` {config.layers}; {len(beyond)} more are stored, from {beyond[0]} on",
        "leave layers that predict further tokens (MTP) out of the index; else correct `num_hidden_layers`",
    )


def _fewer_layers(_recipe: Recipe, config: ModelConfig, _names: Sequence[str], mismatch: Mismatch) -> Cause | None:
    by_layer: dict[int, int] = defaultdict(int)
    for tensor in mismatch.unfilled:
        if tensor.layer is not None:
            by_layer[tensor.layer] += 1
    most = max(by_layer.values(), default=0)
    lost = sorted(layer for layer, count in by_layer.items() if count == most)
    if most < 4 or mismatch.unmatched or len(lost) == config.layers:
        return None
    return Cause(
        f"config.json says `num_hidden_layers` {config.layers}; {len(lost)} are not stored, the first is {lost[0]}",
        "download the missing files, or correct `num_hidden_layers` if the model was cut on purpose",
    )


def _vocabulary(_recipe: Recipe, config: ModelConfig, _names: Sequence[str], mismatch: Mismatch) -> Cause | None:
    wanted, rows = f"expected shape [{config.vocab}, ", re.compile(r"found \[(\d+), ")
    found = [int(m[1]) for text in mismatch.others if wanted in text and (m := rows.search(text))]
    if not found or len(found) < mismatch.places:
        return None
    return Cause(
        f"config.json says `vocab_size` {config.vocab}, the embedding has {found[0]} rows",
        f"set `vocab_size` to {found[0]} in config.json if tokens were added, or save the model again",
    )


def _another(_recipe: Recipe, _config: ModelConfig, names: Sequence[str], mismatch: Mismatch) -> Cause | None:
    if not names or 2 * len(mismatch.unmatched) < len(names):
        return None
    return Cause(
        f"the recipe knows {len(names) - len(mismatch.unmatched)} of its {len(names)} names, but not "
        f"`{mismatch.unmatched[0]}`",
        "config.json is of another architecture, or another program saved the weights: take both from one revision",
    )


def _unknown(mismatch: Mismatch) -> Cause:
    if mismatch.unfilled and not (mismatch.unmatched or mismatch.surplus):
        return Cause(f"{len(mismatch.unfilled)} tensors are not stored", "download the missing files of the checkpoint")
    if mismatch.unmatched or mismatch.surplus:
        count = len(mismatch.unmatched) + len(mismatch.surplus)
        return Cause(
            f"{count} tensors belong to no part of the model that config.json describes",
            "take both from one revision of the model; tensors that it does not need can be left out of its index",
        )
    return Cause("shapes or dtypes differ", "take config.json and weights from one revision of the model")


def _read(recipe: Recipe, name: str) -> bool:
    return any(pattern.fullmatch(name) for pattern, _ in recipe.patterns)


Diagnose = Callable[["Recipe", "ModelConfig", Sequence[str], Mismatch], Cause | None]
DIAGNOSES: tuple[Diagnose, ...] = (
    _lora,
    _prefixed,
    _quantized,
    _headless,
    _more_layers,
    _fewer_layers,
    _vocabulary,
    _another,
)
