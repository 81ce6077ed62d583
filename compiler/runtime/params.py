"""Parameters and results of a generation. Plain data: importing this loads nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from compiler.errors import UsageError

FinishReason = Literal["length", "eos_token", "stop_sequence"]
"""End of an answer, in the words of LMI containers."""

MOST_TOP_LOG_PROBS = 20


@dataclass(frozen=True)
class GenerationParams:
    """Sampling and end of an answer.

    temperature 0 is greedy: the most likely token, without effect of `top_k`, `top_p`, `min_p`, `seed`. The order of
    the steps is transformers': repetition penalty, temperature, top-k, top-p, min-p. Presence and frequency penalties
    are OpenAI's: subtracted from the logits of tokens that the answer already has, once, or times their count.

    Raises:
        UsageError: a value is outside its range; the message names all such values.
    """

    max_new_tokens: int = 64
    temperature: float = 0.0
    top_k: int = 0  # 0: off
    top_p: float = 1.0  # 1: off
    min_p: float = 0.0  # 0: off; least probability of a token, as a share of the likeliest one's
    repetition_penalty: float = 1.0  # 1: off; applies to the prompt's tokens too
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    min_new_tokens: int = 0  # tokens before an end token may come
    seed: int | None = None  # None: random
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()  # tokens that end an answer, besides the model's own
    include_stop: bool = False  # the stop sequence is part of the text
    skip_special: bool = True  # special tokens add nothing to the text
    top_log_probs: int = 0  # number of most likely tokens that are reported with every token
    prompt_log_probs: bool = False  # log probability of each token of the prompt but the first
    ignore_eos: bool = False

    def __post_init__(self) -> None:
        rules = {
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "temperature": (self.temperature >= 0 and self.temperature != float("inf"), "0 (greedy) or above"),
            "top_k": (self.top_k >= 0, "0 (off) or above"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1"),
            "repetition_penalty": (
                1e-3 <= self.repetition_penalty <= 1e3,
                "0.001 to 1000 (1: off)",
            ),
            "min_p": (0 <= self.min_p <= 1, "0 (off) to 1"),
            "presence_penalty": (-2 <= self.presence_penalty <= 2, "-2 to 2 (0: off)"),
            "frequency_penalty": (-2 <= self.frequency_penalty <= 2, "-2 to 2 (0: off)"),
            "min_new_tokens": (0 <= self.min_new_tokens <= self.max_new_tokens, "0 to `max_new_tokens`"),
            "seed": (self.seed is None or self.seed >= 0, "0 or above"),
            "stop": (type(self.stop) is tuple and all(self.stop), "a tuple of texts, none of them empty"),
            "top_log_probs": (0 <= self.top_log_probs <= MOST_TOP_LOG_PROBS, f"0 to {MOST_TOP_LOG_PROBS}"),
        }
        broken = [f"`{name}` is {rule}; found {getattr(self, name)!r}" for name, (ok, rule) in rules.items() if not ok]
        if broken:
            raise UsageError("\n".join(broken), hint="change these parameters")


@dataclass(frozen=True)
class Token:
    """One generated token.

    `text`: text that the token added to the answer. A token in the middle of a character adds none, the one that
    completes it adds the character. A special token adds none, and its `text` is its name. `log_prob`: natural
    logarithm in the model's own distribution, without temperature, penalty and filters.
    """

    id: int
    text: str
    log_prob: float
    special: bool
    top: tuple[tuple[int, float], ...] = ()  # (id, log_prob), most likely first


@dataclass(frozen=True)
class Completion:
    """Answer to one prompt. `seconds_to_first_token`: from the call that requested it."""

    text: str
    tokens: tuple[Token, ...]
    finish_reason: FinishReason
    prompt_tokens: int
    log_prob: float  # sum over `tokens`
    seconds_to_first_token: float
    stopped_by: str | None = None  # the stop sequence that ended it
    prompt_log_probs: tuple[float, ...] = ()  # on request, of the prompt's tokens from the second on


@dataclass(frozen=True)
class TextPiece:
    """One step of a stream: text that is safe to show, the token, and at the end the completion.

    The texts of all pieces join to the completion's text. `text` lags behind `token` while a character is incomplete or
    a stop sequence may have begun.
    """

    text: str
    token: Token
    completion: Completion | None = None
