"""File names of a complete engine and of a complete tokenizer."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from compiler.tokenizer.vocabulary import vocabulary_names, vocabulary_of


@dataclass(frozen=True)
class Problem:
    """Fault of an artifact. `what`: identifier for scripts; `text`: expected, found, and the consequence."""

    what: str
    text: str


_WEIGHTS = re.compile(r".*\.(safetensors|bin|pth|pt|gguf)")
_MANAGED = re.compile(r"rank\d+_managed_weights\.safetensors")


def tokenizer_problems(names: Iterable[str]) -> list[Problem]:
    """Missing files of a tokenizer.

    The front end of LMI 0.25 to 0.32 looks for tokenizer_config.json (`LmiUtils.isValidTrtLlmModelRepo`), and
    transformers' AutoTokenizer reads the class from it.
    """
    has = set(names)
    problems = []
    if "tokenizer_config.json" not in has:
        problems.append(Problem("tokenizer", "tokenizer_config.json is missing"))
    if vocabulary_of(has) is None:
        problems.append(Problem("tokenizer", f"the vocabulary is missing: expected one of {vocabulary_names()}"))
    return problems


def rank_problems(names: Iterable[str], ranks: int) -> list[Problem]:
    """Missing and surplus files in an engine's folder of `ranks` ranks.

    `trtllm-build` writes rank{i}.engine; the toolkit of LMI 0.25 and 0.26 <model>_<dtype>_tp<n>_rank{i}.engine. With
    weights beside the engines TensorRT-LLM's loaders read the folder as a checkpoint (`get_model_format`), except the
    rank{i}_managed_weights.safetensors of `--fast_build`.
    """
    has = sorted(set(names))
    engines = [name for name in has if name.endswith(".engine")]
    numbers = [int(match[1]) for name in engines if (match := re.search(r"rank(\d+)\.engine$", name))]
    problems = [] if "config.json" in has else [Problem("config", "config.json is missing")]
    if len(numbers) < len(engines):
        problems.append(Problem("ranks", f"expected engines named rank<i>.engine; found {', '.join(engines)}"))
    elif sorted(numbers) != list(range(ranks)):
        found = ", ".join(engines) or "none"
        problems.append(Problem("ranks", f"expected the engines of {_ranks(ranks)}, found {found}"))
    strays = weights_among(has)
    if strays:
        text = f"with weights beside the engines the folder is loaded as a checkpoint: {', '.join(strays)}"
        problems.append(Problem("weights", text))
    return problems


def weights_among(names: Iterable[str]) -> list[str]:
    """Names of a checkpoint's weight files, sorted."""
    return sorted(name for name in names if _WEIGHTS.fullmatch(name) and not _MANAGED.fullmatch(name))


def _ranks(count: int) -> str:
    return "rank 0" if count == 1 else f"ranks 0 to {count - 1}"
