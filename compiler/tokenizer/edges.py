"""Tokens around a prompt, BOS in front and EOS behind, as releases of transformers add them.

In transformers 4 some fast classes replace the post-processor of tokenizer.json by one that follows `add_bos_token` and
`add_eos_token` of tokenizer_config.json; the others keep it. Transformers 5 follows a tokenizer.json. Found by encoding
the same folders (12 classes, 4 post-processors, both settings absent, true and false) with transformers 4.34.0, 4.38.1,
4.44.2, 4.51.3, 4.53.3 and 5.23.0, on 2026-11-29.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from compiler.tokenizer.settings import TokenizerSettings

Release = tuple[int, int]
"""Release of transformers, (4, 44)."""


@dataclass(frozen=True)
class Edges:
    """Whether BOS and EOS are added."""

    bos: bool
    eos: bool


@dataclass(frozen=True)
class EdgeClass:
    """Class of transformers 4 that adds BOS and EOS by its settings, whatever tokenizer.json says, from release `since`
    on. `bos`: its default of `add_bos_token`; that of `add_eos_token` is False. `model_types`: those whose class it is
    where tokenizer_config.json names none (TOKENIZER_MAPPING_NAMES of transformers 4.53).
    """

    name: str
    since: Release
    bos: bool
    model_types: frozenset[str]


CLASSES = (
    EdgeClass("LlamaTokenizer", (4, 0), bos=True, model_types=frozenset((
        "arcee", "deepseek_v3", "diffllama", "jamba", "jetmoe", "llama", "llama4", "llama4_text", "llava", "mistral",
        "mixtral", "mllama", "persimmon", "phi3", "phimoe", "zamba", "zamba2",
    ))),
    EdgeClass("CodeLlamaTokenizer", (4, 0), bos=True, model_types=frozenset({"code_llama"})),
    EdgeClass("GemmaTokenizer", (4, 38), bos=True, model_types=frozenset((
        "gemma", "gemma2", "gemma3", "gemma3_text", "gemma3n", "gemma3n_text", "recurrent_gemma",
    ))),
    EdgeClass("CohereTokenizer", (4, 39), bos=True, model_types=frozenset({"cohere", "cohere2", "aya_vision"})),
    EdgeClass("GPTNeoXTokenizer", (4, 41), bos=False, model_types=frozenset((
        "falcon_mamba", "gpt_neox", "mamba", "mamba2", "mpt", "olmo", "olmo2", "olmoe", "rwkv", "stablelm",
    ))),
)  # fmt: skip


def edge_class(settings: TokenizerSettings) -> EdgeClass | None:
    """Class that adds BOS and EOS by its settings; None where tokenizer.json decides."""
    name = settings.name.removesuffix("Fast")
    if name:
        return next((one for one in CLASSES if one.name == name), None)
    return next((one for one in CLASSES if settings.model_type in one.model_types), None)


def edges_in(settings: TokenizerSettings, release: Release) -> Edges | None:
    """Edges that `release` of transformers adds by the settings; None where it follows tokenizer.json."""
    one = edge_class(settings)
    if one is None or not one.since <= release < (5, 0):
        return None
    return Edges(one.bos if settings.add_bos is None else settings.add_bos, bool(settings.add_eos))


def sentencepiece_edges(settings: TokenizerSettings) -> Edges:
    """Edges of a vocabulary that is a sentencepiece model alone: by the settings, else BOS, the default of the classes
    that read one (LlamaTokenizer, GemmaTokenizer, InternLM's and Baichuan's own).
    """
    return Edges(settings.add_bos is not False, bool(settings.add_eos))
