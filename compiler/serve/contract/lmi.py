"""Answers of /invocations, in the form of a release.

    {"generated_text": "...", "details": {"finish_reason": "length", "generated_tokens": 8, "inputs": "text",
     "tokens": [{"id": 304, "text": " a", "log_prob": -0.05}, ...]}}                     details: on request

    {"token": {"id": 304, "text": " a", "log_prob": -0.05}}                              stream: one line per token
    {"token": {...}, "generated_text": "...", "details": {...}}                          its last line

Texts of tokens join to `generated_text`, without the prompt of `return_full_text`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from compiler.serve.contract.asked import Asked, Prompt, sequences
from compiler.serve.contract.body import dump, event, is_text, parse_object, refuse
from compiler.serve.contract.parameters import HINT, AnswerForm, read_parameters

if TYPE_CHECKING:
    from compiler.lmi.contract import Contract
    from compiler.runtime.params import Completion, TextPiece, Token
    from compiler.runtime.row import Row

MOST_INPUTS = 64
_OPENAI_REASONS = {"eos_token": "stop", "stop_sequence": "stop", "length": "length"}


def read_inputs(content: dict[str, Any], contract: Contract) -> Asked:
    """Rows of a body with `inputs`: one text, or a list of texts that is answered as a list.

    Raises:
        UsageError: the body violates the schema.
    """
    inputs: Any = content.get("inputs")
    stream: Any = content.get("stream")
    several = isinstance(inputs, list) and 0 < len(inputs) <= MOST_INPUTS and all(map(is_text, inputs))
    problems = [] if is_text(inputs) or several else [f"`inputs` is one text, or a list of at most {MOST_INPUTS} texts"]
    if not isinstance(stream, bool | None):
        problems.append("`stream` is true or false")
    if contract.unknown == "refused":
        known = ("inputs", "parameters", "stream")
        problems += [f"`{name[:60]}` is no field" for name in content if name not in known]
    refuse(problems, HINT)
    params, form, ignored = read_parameters(
        {} if content.get("parameters") is None else content["parameters"], contract
    )
    streams = contract.streams(stream=bool(stream))
    if streams and (several or form.sequences > 1):
        refuse(["a stream answers one text with one sequence"], 'Leave `"stream": true`, `n` and `best_of` out.')
    texts = list(inputs) if several else [inputs]
    reply = LmiReply(contract, form, [str(text) for text in texts], as_list=several, stream=streams, seed=params.seed)
    prompts = [Prompt(text, keep=form.truncate) for text in texts for _ in range(form.sequences)]
    return Asked(prompts, sequences(params, form.sequences, len(texts)), streams, reply, ignored, form.default_length)


class LmiReply:
    """Answer to `inputs`. `as_list`: the answer to a list of texts."""

    def __init__(
        self,
        contract: Contract,
        form: AnswerForm,
        texts: Sequence[str],
        *,
        as_list: bool,
        stream: bool,
        seed: int | None,
    ) -> None:
        self._contract, self._form, self._texts, self._seed = contract, form, texts, seed
        self._as_list = as_list or (contract.tgi and not stream)
        self._stream = stream
        self._shown: list[str] = []

    @property
    def media_type(self) -> str:
        return self._contract.media_type(stream=self._stream)

    def part(self, index: int, row: Row, piece: TextPiece) -> bytes:
        self._shown.append(piece.text)
        done, asynchronous = piece.completion, self._contract.details == "async"
        line: dict[str, Any] = {"index": 0} if asynchronous else {}
        line["token"] = self._token(piece)
        if asynchronous:
            line |= {"generated_text": None, "details": None}
        if done is not None:
            line["generated_text"] = self._text(index, done)
            if details := self._details(index, row, done, None):
                line["details"] = details
        return self._line(line)

    def end(self) -> bytes:
        return b""

    def failed(self, message: str) -> bytes:
        text = "".join(self._shown)
        if self._contract.details == "async":
            return self._line({"error": {"message": message, "code": 400}})
        token = {"id": -1, "text": "", "log_prob": -1.0, "special_token": True, "error_msg": message}
        return self._line({"token": token, "generated_text": text, "details": {"finish_reason": "error"}})

    def whole(self, rows: Sequence[Row], pieces: Sequence[Sequence[TextPiece]]) -> bytes:
        count = self._form.sequences
        groups = range(0, len(rows), count)
        answers = [self._answer(at // count, rows[at : at + count], pieces[at : at + count]) for at in groups]
        return dump(answers if self._as_list else answers[0])

    def _answer(self, index: int, rows: Sequence[Row], pieces: Sequence[Sequence[TextPiece]]) -> dict[str, Any]:
        """Answer to one text from its sequences: that with the highest log probability first."""
        order = sorted(range(len(rows)), key=lambda at: -_completion(pieces[at]).log_prob)
        done = [_completion(pieces[at]) for at in order]
        found = [self._details(index, rows[at], one, pieces[at]) for at, one in zip(order, done, strict=True)]
        answer: dict[str, Any] = {"generated_text": self._text(index, done[0])}
        best, *others = found
        if best is None:
            return answer
        rest = zip(others, done[1:], strict=True)
        more = [(details or {}) | {"generated_text": self._text(index, one)} for details, one in rest]
        return answer | {"details": best | ({"best_of_sequences": more} if more else {})}

    def _text(self, index: int, done: Completion) -> str:
        prompt = self._texts[index] if self._form.full_text else ""
        return prompt + done.text

    def _details(
        self, index: int, row: Row, done: Completion, pieces: Sequence[TextPiece] | None
    ) -> dict[str, Any] | None:
        """Details of one sequence. `pieces`: those of a whole answer, whose details have the tokens."""
        if not (self._form.details or self._form.best_of or self._contract.tgi):
            return None
        reason, count = self._reason(done), len(done.tokens)
        tokens = None if pieces is None else [self._token(piece) for piece in pieces]
        match self._contract.details, tokens:
            case "reason", None:
                return {"finish_reason": reason}
            case "reason", _:
                return {"finish_reason": reason, "tokens": tokens}
            case "async", None:
                # The release counts the last token twice: usage of its chunk, and one.
                numbers = {"generated_tokens": count + 1, "input_length": done.prompt_tokens}
                return {"finish_reason": _OPENAI_REASONS[done.finish_reason], "seed": self._seed, **numbers}
            case "async", _:
                stopped = done.stopped_by
                details: dict[str, Any] = {"finish_reason": stopped, "generated_tokens": count, "seed": self._seed}
                if self._contract.tokens == "async":
                    details |= {"prefill": self._prefill(row, done), "tokens": tokens}
                return details
        details = {"finish_reason": reason, "generated_tokens": count, "inputs": self._texts[index]}
        if tokens is not None:
            details["tokens"] = tokens
        if self._form.prefill:
            details["prefill"] = self._prefill(row, done)
        if self._form.top and pieces is not None:
            details["top_tokens"] = [self._top(row, piece.token) for piece in pieces]
        return details

    def _reason(self, done: Completion) -> str:
        ends = self._contract.stops_as_end and done.finish_reason == "stop_sequence"
        return "eos_token" if ends else done.finish_reason

    def _prefill(self, row: Row, done: Completion) -> list[dict[str, Any]]:
        if not self._form.prefill:
            return []
        # The first token of a prompt has no probability.
        log_probs = [None, *done.prompt_log_probs]
        texts = [row.text_of(token) for token in row.prompt]
        return [
            self._named(token, text, log_prob, special=False)
            for token, text, log_prob in zip(row.prompt, texts, log_probs, strict=True)
            if log_prob is not None or self._contract.details != "async"
        ]

    def _top(self, row: Row, token: Token) -> list[dict[str, Any]]:
        return [self._named(one, row.text_of(one), log_prob, special=False) for one, log_prob in token.top]

    def _token(self, piece: TextPiece) -> dict[str, Any]:
        """Token with the piece's text: it lags while a character is incomplete, but the texts join to the answer."""
        return self._named(piece.token.id, piece.text, piece.token.log_prob, special=piece.token.special)

    def _named(self, token: int, text: str, log_prob: float | None, *, special: bool) -> dict[str, Any]:
        if self._contract.tgi:
            found = {"id": token, "text": text, "logprob": log_prob}
            return found | ({"special": True} if special else {})
        match self._contract.tokens:
            case "async text":
                return {"id": None, "text": text, "logprob": None}
            case "async":
                return {"id": token, "text": text, "logprob": log_prob}
            case "full":
                found = {"id": token, "text": text, "log_prob": log_prob}
                return found | ({"special_token": True} if special else {})
            case "sparse" | "sparse list" as style:
                number = [token] if style == "sparse list" else token
                named = {"id": number, "text": text, "log_prob": log_prob, "special_token": special}
                return {name: value for name, value in named.items() if value}

    def _line(self, line: dict[str, Any]) -> bytes:
        if self.media_type == "text/event-stream":
            return event(line)
        return dump(line) + b"\n"


def parse(body: bytes) -> dict[str, Any]:
    """JSON object of a request. Raises UsageError."""
    return parse_object(body, HINT)


def _completion(pieces: Sequence[TextPiece]) -> Completion:
    found = pieces[-1].completion
    assert found is not None
    return found
