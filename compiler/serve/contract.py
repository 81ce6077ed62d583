"""LMI's contract: the body of a request -> rows to run, and their pieces -> bytes of the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from compiler.lmi.schema import (
    JSON,
    JSON_LINES,
    Answer,
    AnswerToken,
    Details,
    Parameters,
    Request,
    StreamLine,
    dump,
    failed_line,
    parse_request,
)
from compiler.runtime.params import Completion, GenerationParams

if TYPE_CHECKING:
    from compiler.runtime.params import TextPiece


class Reply(Protocol):
    """Form of the answer to one request."""

    @property
    def media_type(self) -> str: ...

    def part(self, row: int, piece: TextPiece) -> bytes:
        """Bytes of a stream for the next piece of a row."""

    def failed(self, message: str) -> bytes:
        """Last bytes of a stream that an error ended."""

    def whole(self, rows: Sequence[Sequence[TextPiece]]) -> bytes:
        """Body of an answer that is not streamed, from all pieces of each row."""


@dataclass(frozen=True)
class Asked:
    """Rows that a request asks for, and the form of their answer."""

    prompts: Sequence[str]
    params: Sequence[GenerationParams]
    stream: bool
    reply: Reply


class LmiReply:
    """Answer of /invocations as LMI 0.28 to 0.32 write it."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._text = ""

    @property
    def media_type(self) -> str:
        return JSON_LINES if self._request.stream else JSON

    def part(self, row: int, piece: TextPiece) -> bytes:
        del row
        self._text += piece.text
        answer = self._answer(piece.completion) if piece.completion else None
        return dump(StreamLine(_token(piece), answer))

    def failed(self, message: str) -> bytes:
        return dump(failed_line(message, self._text))

    def whole(self, rows: Sequence[Sequence[TextPiece]]) -> bytes:
        pieces = rows[0]
        completion = pieces[-1].completion
        assert completion is not None
        return dump(self._answer(completion, tuple(map(_token, pieces))))

    def _answer(self, completion: Completion, tokens: tuple[AnswerToken, ...] | None = None) -> Answer:
        request = self._request
        text = (request.inputs if request.parameters.return_full_text else "") + completion.text
        if not request.parameters.details:
            return Answer(text)
        return Answer(text, Details(completion.finish_reason, len(completion.tokens), request.inputs, tokens))


def read_invocation(body: bytes) -> Asked:
    """Rows of a body of /invocations. Raises UsageError with all violations of the schema."""
    request = parse_request(body)
    return Asked([request.inputs], [generation_params(request.parameters)], request.stream, LmiReply(request))


def generation_params(parameters: Parameters) -> GenerationParams:
    """Sampling parameters of a request. Raises UsageError for values outside their range."""
    return GenerationParams(
        max_new_tokens=parameters.max_new_tokens,
        temperature=parameters.temperature if parameters.do_sample else 0.0,
        top_k=parameters.top_k,
        top_p=parameters.top_p,
        repetition_penalty=parameters.repetition_penalty,
        seed=parameters.seed,
        stop=parameters.stop_sequences,
    )


def _token(piece: TextPiece) -> AnswerToken:
    """Token of a piece, with the piece's text: it lags while a character is incomplete, but the texts join to the
    answer.
    """
    return AnswerToken(piece.token.id, piece.text, piece.token.log_prob, piece.token.special)
