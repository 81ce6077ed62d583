"""Parameters of /invocations -> sampling, by the rules of a release.

Sources: serving/docs/lmi/user_guides/lmi_input_output_schema.md at 0.33.0-dlc, and those of `compiler.lmi.contract`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from compiler.errors import UsageError
from compiler.runtime.params import MOST_TOP_LOG_PROBS, GenerationParams
from compiler.serve.contract.body import KINDS, normal, refuse, shown

if TYPE_CHECKING:
    from compiler.lmi.contract import Contract

MOST_SEQUENCES = 16

HINT = 'A request is such as {"inputs": "text", "parameters": {"max_new_tokens": 40}, "stream": true}.'

KNOWN: Mapping[str, str] = {
    "do_sample": "true or false",
    "seed": "a whole number",
    "temperature": "a number",
    "repetition_penalty": "a number",
    "top_k": "a whole number",
    "top_p": "a number",
    "min_p": "a number",
    "typical_p": "a number",
    "max_new_tokens": "a whole number",
    "min_length": "a whole number",
    "details": "true or false",
    "decoder_input_details": "true or false",
    "return_full_text": "true or false",
    "stop_sequences": "a list of texts",
    "stop": "a list of texts, or true or false",
    "stop_token_ids": "a list of token ids",
    "bad_sequences": "a list of texts",
    "include_stop_str_in_output": "true or false",
    "ignore_eos_token": "true or false",
    "presence_penalty": "a number",
    "frequency_penalty": "a number",
    "n": "a whole number",
    "best_of": "a whole number",
    "num_beams": "a whole number",
    "length_penalty": "a number",
    "early_stopping": "true or false",
    "logprobs": "a whole number, or true or false",
    "prompt_logprobs": "a whole number",
    "top_n_tokens": "a whole number",
    "truncate": "a whole number",
    "skip_special_tokens": "true or false",
    "spaces_between_special_tokens": "true or false",
    "watermark": "true or false",
}
"""Documented parameters of all releases and backends, and the kind of their values. null means absent."""

ONLY = {"num_beams": 1, "typical_p": 1.0, "bad_sequences": [], "watermark": False}
"""Parameters that are accepted at one value, which has no effect: others would need another kind of decoding."""
_WITHOUT_EFFECT = ("length_penalty", "early_stopping", "spaces_between_special_tokens")
"""Parameters of beam search, and of decoders that join tokens by blanks."""


@dataclass(frozen=True)
class AnswerForm:
    """Form of an answer, besides sampling. `top`: likeliest tokens that are reported with each token."""

    details: bool = False
    prefill: bool = False
    full_text: bool = False
    sequences: int = 1
    best_of: bool = False
    top: int = 0
    truncate: int | None = None
    default_length: bool = True


def read_parameters(parameters: Any, contract: Contract) -> tuple[GenerationParams, AnswerForm, tuple[str, ...]]:
    """Sampling, form of the answer, and the names of parameters that were ignored.

    Raises:
        UsageError: all violations, the first five of them in words.
    """
    if not isinstance(parameters, dict):
        raise UsageError(f"`parameters` takes a JSON object, found {type(parameters).__name__}", hint=HINT)
    problems, ignored, given = [], [], dict[str, Any]()
    for name, value in parameters.items():
        if name not in KNOWN:
            if contract.unknown == "refused":
                problems.append(f"`{name[:60]}` is no parameter; expected one of {', '.join(KNOWN)}")
            ignored.append(name[:60])
        elif value is None:
            continue
        elif not KINDS[KNOWN[name]](value):
            problems.append(f"`{name}` is {KNOWN[name]}; found {shown(value)}")
        elif name in ONLY and value != ONLY[name]:
            problems.append(f"`{name}` is accepted as {shown(ONLY[name])} only; found {shown(value)}")
        else:
            given[name] = normal(value, KNOWN[name])
            if name in _WITHOUT_EFFECT:
                ignored.append(name)
    if not problems:
        problems += _out_of_range(given)
    refuse(problems, HINT)
    return _sampling(given, contract), _form(given), tuple(ignored[:20])


RANGES: Mapping[str, tuple[int, int | None]] = {
    "n": (1, MOST_SEQUENCES),
    "best_of": (1, MOST_SEQUENCES),
    "truncate": (1, None),
    "min_length": (0, None),
    "logprobs": (0, MOST_TOP_LOG_PROBS),
    "prompt_logprobs": (0, MOST_TOP_LOG_PROBS),
    "top_n_tokens": (0, MOST_TOP_LOG_PROBS),
}
"""Least and largest value of parameters that GenerationParams does not check. None: no limit."""


def _out_of_range(given: Mapping[str, Any]) -> list[str]:
    return [
        f"`{name}` is {low} or above{'' if high is None else f', at most {high}'}; found {given[name]}"
        for name, (low, high) in RANGES.items()
        if name in given and (given[name] < low or (high is not None and given[name] > high))
    ]


def _form(given: Mapping[str, Any]) -> AnswerForm:
    top = given.get("top_n_tokens", given.get("logprobs", 0))
    return AnswerForm(
        details=given.get("details", False),
        prefill=given.get("decoder_input_details", False) or given.get("prompt_logprobs", 0) > 0,
        full_text=given.get("return_full_text", False),
        sequences=max(given.get("n", 1), given.get("best_of", 1)),
        best_of=max(given.get("n", 1), given.get("best_of", 1)) > 1,
        top=int(top),
        truncate=given.get("truncate"),
        default_length="max_new_tokens" not in given,
    )


def _sampling(given: Mapping[str, Any], contract: Contract) -> GenerationParams:
    form = _form(given)
    stops = [text for name in ("stop_sequences", "stop") for text in _texts(given.get(name, ()))]
    limit = given.get("max_new_tokens", contract.max_new_tokens)
    params = GenerationParams(
        max_new_tokens=limit,
        repetition_penalty=given.get("repetition_penalty", 1.0),
        presence_penalty=given.get("presence_penalty", 0.0),
        frequency_penalty=given.get("frequency_penalty", 0.0),
        min_new_tokens=min(given.get("min_length", 0), limit) if limit > 0 else 0,
        seed=given.get("seed"),
        stop=tuple(text for text in stops if text),
        stop_ids=tuple(given.get("stop_token_ids", ())),
        include_stop=given.get("include_stop_str_in_output", False),
        skip_special=given.get("skip_special_tokens", True),
        top_log_probs=form.top,
        prompt_log_probs=form.prefill,
        ignore_eos=given.get("ignore_eos_token", False),
    )
    checked = GenerationParams(
        temperature=given.get("temperature", 1.0),
        top_k=max(given.get("top_k", 0), 0) if given.get("top_k", 0) >= -1 else given["top_k"],
        top_p=given.get("top_p", 1.0) or 1.0,
        min_p=given.get("min_p", 0.0),
    )  # in range, whether they have an effect or not
    if not _sampled(given, contract):
        return params
    toolkit = contract.sampling == "toolkit" and given.get("do_sample", False)
    return replace(
        params,
        temperature=given.get("temperature", 0.8 if toolkit else 1.0),
        top_k=given.get("top_k", 5) if toolkit and "top_k" not in given else checked.top_k,
        top_p=0.85 if toolkit and "top_p" not in given else checked.top_p,
        min_p=checked.min_p,
    )


def _texts(value: Any) -> Sequence[str]:
    """Stop sequences of a value. LMI documents a boolean for `stop`, which has no effect."""
    if isinstance(value, bool):
        return ()
    return (value,) if isinstance(value, str) else value


def _sampled(given: Mapping[str, Any], contract: Contract) -> bool:
    asked = given.get("do_sample")
    match contract.sampling:
        case "do_sample":
            return bool(asked)
        case "inferred":
            return bool(asked) or (asked is None and "temperature" in given)
        case "toolkit":
            return bool(asked) or given.get("top_k", 0) > 1 or given.get("top_p", 0) > 0
        case "always":
            return asked is not False
