"""Names of files: which sets of them are an engine of so many ranks, or a tokenizer that loads."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """`what`: a word for scripts; `text`: what was expected, what is there, what would come of it."""

    what: str
    text: str


VOCABULARIES: tuple[tuple[str, ...], ...] = (
    ("tokenizer.json",),
    ("tokenizer.model",),
    ("vocab.json", "merges.txt"),
    ("vocab.txt",),
    ("spiece.model",),
    ("qwen.tiktoken",),
)
"""Each is a set of files that hold a vocabulary; a tokenizer needs one whole set."""

_WEIGHTS = re.compile(r".*\.(safetensors|bin|pth|pt|gguf)")
_MANAGED = re.compile(r"rank\d+_managed_weights\.safetensors")


def tokenizer_problems(names: Iterable[str]) -> list[Problem]:
    """What lacks among files of a tokenizer.

    tokenizer_config.json is what the front end of LMI 0.25 to 0.32 looks for (`LmiUtils.isValidTrtLlmModelRepo`), and
    what transformers' AutoTokenizer reads to know the class.
    """
    has = set(names)
    problems = []
    if "tokenizer_config.json" not in has:
        problems.append(Problem("tokenizer", "tokenizer_config.json is missing"))
    if not any(has.issuperset(files) for files in VOCABULARIES):
        sets = ", ".join(" with ".join(files) for files in VOCABULARIES)
        problems.append(Problem("tokenizer", f"no vocabulary is there: one of {sets}"))
    return problems


def rank_problems(names: Iterable[str], ranks: int) -> list[Problem]:
    """What is wrong with the names in an engine's folder of so many ranks.

    `trtllm-build` writes rank{i}.engine; the toolkit of LMI 0.25 and 0.26 <model>_<dtype>_tp<n>_rank{i}.engine. Weights
    beside engines make TensorRT-LLM's loaders take the folder for a checkpoint (`get_model_format`), but for the
    rank{i}_managed_weights.safetensors of `--fast_build`.
    """
    has = sorted(set(names))
    engines = [name for name in has if name.endswith(".engine")]
    numbers = [int(match[1]) for name in engines if (match := re.search(r"rank(\d+)\.engine$", name))]
    problems = [] if "config.json" in has else [Problem("config", "config.json is missing")]
    if len(numbers) < len(engines):
        problems.append(Problem("ranks", f"names of engines end in rank<i>.engine; found {', '.join(engines)}"))
    elif sorted(numbers) != list(range(ranks)):
        found = ", ".join(engines) or "none"
        problems.append(Problem("ranks", f"expected the engines of {_ranks(ranks)}, found {found}"))
    strays = weights_among(has)
    if strays:
        text = f"weights beside engines make the folder pass for a checkpoint: {', '.join(strays)}"
        problems.append(Problem("weights", text))
    return problems


def weights_among(names: Iterable[str]) -> list[str]:
    """The names that are files of weights of a checkpoint."""
    return sorted(name for name in names if _WEIGHTS.fullmatch(name) and not _MANAGED.fullmatch(name))


def _ranks(count: int) -> str:
    return "rank 0" if count == 1 else f"ranks 0 to {count - 1}"
