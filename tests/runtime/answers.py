"""Prompts of the tests of generation, and token ids of answers."""

from __future__ import annotations

from compiler.runtime.params import Completion, GenerationParams

PROMPTS = ["x", "a prompt that is longer than one chunk", "sixteen letters!", "short"]
"""Prompts of one token, longer than a chunk of prefill, of exactly a chunk, and short."""
SAMPLED = GenerationParams(max_new_tokens=12, temperature=1.0, top_k=50, seed=11, repetition_penalty=1.2)


def ids_of(completion: Completion) -> list[int]:
    return [token.id for token in completion.tokens]
