"""Chat and text completions, as vLLM and LMI serve them: `messages` or `prompt` in place of `inputs`.

Source: OpenAI's API reference, objects chat.completion, chat.completion.chunk and text_completion (November 2025), the
fields that LMI 0.27 to 0.33 read (chat_completions/chat_properties.py, lmi_vllm/vllm_async_service.py).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from compiler.errors import RefusedError
from compiler.runtime.params import MOST_TOP_LOG_PROBS, GenerationParams
from compiler.serve.contract.asked import Asked, Prompt, sequences
from compiler.serve.contract.body import KINDS, dump, event, is_text, normal, refuse, shown
from compiler.serve.contract.parameters import MOST_SEQUENCES

if TYPE_CHECKING:
    from compiler.runtime.params import TextPiece, Token
    from compiler.runtime.row import Row

Render = Callable[[Sequence[Mapping[str, Any]]], str]
"""Messages -> text of the prompt. Raises RefusedError."""

_HINT = 'A request is such as {"messages": [{"role": "user", "content": "text"}], "max_tokens": 40, "stream": true}.'
_REASONS = {"eos_token": "stop", "stop_sequence": "stop", "length": "length"}
_DEFAULT_TOKENS = 256

_KNOWN: Mapping[str, str] = {
    "model": "a text",
    "max_tokens": "a whole number",
    "max_completion_tokens": "a whole number",
    "temperature": "a number",
    "top_p": "a number",
    "top_k": "a whole number",
    "min_p": "a number",
    "n": "a whole number",
    "seed": "a whole number",
    "stop": "a text or a list of texts",
    "stream": "true or false",
    "presence_penalty": "a number",
    "frequency_penalty": "a number",
    "repetition_penalty": "a number",
    "logprobs": "a whole number, or true or false",
    "top_logprobs": "a whole number",
    "ignore_eos": "true or false",
    "min_tokens": "a whole number",
    "echo": "true or false",
    "user": "a text",
    "ignore_eos_token": "true or false",
}
_NO_EFFECT = ("model", "user")


def read_chat(content: dict[str, Any], render: Render | None, most: int) -> Asked:
    """Rows of a body with `messages`. `most`: positions of a row. Raises UsageError, RefusedError."""
    messages = content.get("messages")
    if not isinstance(messages, list) or not messages or not all(map(_is_message, messages)):
        refuse(["`messages` is a list of objects with the texts `role` and `content`"], _HINT)
    if render is None:
        raise RefusedError(
            "this artifact's tokenizer has no chat template", hint="send `prompt`, or `inputs`, with the whole text"
        )
    assert isinstance(messages, list)
    text = render([{**one, "content": _text_of(one["content"])} for one in messages])
    return _asked(content, "messages", [Prompt(text, special=False)], most, chat=True)


def read_completion(content: dict[str, Any], most: int) -> Asked:
    """Rows of a body with `prompt`: one text or a list of texts. Raises UsageError."""
    prompt = content.get("prompt")
    if not KINDS["a text or a list of texts"](prompt):
        refuse([f"`prompt` is a text or a list of texts; found {shown(prompt)}"], _HINT)
    texts = [prompt] if isinstance(prompt, str) else list(prompt or ())
    return _asked(content, "prompt", [Prompt(text) for text in texts], most, chat=False)


def _is_message(message: Any) -> bool:
    if not isinstance(message, dict) or not is_text(message.get("role")):
        return False
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    return bool(parts) and all(
        isinstance(p, dict) and p.get("type") == "text" and is_text(p.get("text")) for p in parts
    )


def _text_of(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join(part["text"] for part in content)


def _asked(content: dict[str, Any], source: str, prompts: list[Prompt], most: int, *, chat: bool) -> Asked:
    given = {name: value for name, value in content.items() if value is not None and name != source}
    problems = [
        f"`{name}` is {_KNOWN[name]}; found {shown(value)}"
        for name, value in given.items()
        if name in _KNOWN and not KINDS[_KNOWN[name]](value)
    ]
    if not problems and not 1 <= given.get("n", 1) <= MOST_SEQUENCES:
        problems.append(f"`n` is 1 to {MOST_SEQUENCES}; found {given['n']}")
    refuse(problems, _HINT)
    given = {name: normal(value, _KNOWN.get(name, "")) for name, value in given.items()}
    top = given.get("top_logprobs", given.get("logprobs", 0) if not chat else 0)
    limit = given.get("max_completion_tokens", given.get("max_tokens", min(_DEFAULT_TOKENS, most // 2)))
    stop = given.get("stop", ())
    params = GenerationParams(
        max_new_tokens=limit,
        temperature=given.get("temperature", 1.0),
        top_k=max(given.get("top_k", 0), 0),
        top_p=given.get("top_p", 1.0),
        min_p=given.get("min_p", 0.0),
        repetition_penalty=given.get("repetition_penalty", 1.0),
        presence_penalty=given.get("presence_penalty", 0.0),
        frequency_penalty=given.get("frequency_penalty", 0.0),
        min_new_tokens=given.get("min_tokens", 0),
        seed=given.get("seed"),
        stop=(stop,) if isinstance(stop, str) else tuple(stop),
        top_log_probs=min(int(top), MOST_TOP_LOG_PROBS),
        ignore_eos=given.get("ignore_eos", given.get("ignore_eos_token", False)),
    )
    count, stream = given.get("n", 1), given.get("stream", False)
    if stream and (count > 1 or len(prompts) > 1):
        refuse(["a stream answers one prompt with one choice"], 'Leave `"stream": true` or `n` out.')
    logprobs = given.get("logprobs", False)
    reply = OpenAiReply(
        str(given.get("model", "")), prompts, count, chat=chat, stream=stream,
        logprobs=logprobs is not False and (chat is False or bool(logprobs)), echo=bool(given.get("echo", False)),
    )  # fmt: skip
    rows = [prompt for prompt in prompts for _ in range(count)]
    ignored = [name[:60] for name in given if name not in _KNOWN or name in _NO_EFFECT][:20]
    fit = not {"max_tokens", "max_completion_tokens"} & given.keys()
    return Asked(rows, sequences(params, count, len(prompts)), stream, reply, ignored, fit)


class OpenAiReply:
    """Answer to `messages` or `prompt`."""

    def __init__(
        self,
        model: str,
        prompts: Sequence[Prompt],
        sequences: int,
        *,
        chat: bool,
        stream: bool,
        logprobs: bool,
        echo: bool,
    ) -> None:
        self._model, self._prompts, self._sequences = model, prompts, sequences
        self._chat, self._stream, self._logprobs, self._echo = chat, stream, logprobs, echo
        self._id = f"{'chatcmpl' if chat else 'cmpl'}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._begun = False

    @property
    def media_type(self) -> str:
        return "text/event-stream" if self._stream else "application/json"

    def part(self, index: int, row: Row, piece: TextPiece) -> bytes:
        done = piece.completion
        choice: dict[str, Any] = {"index": index}
        if self._chat:
            choice["delta"] = ({} if self._begun else {"role": "assistant"}) | {"content": piece.text}
        else:
            choice["text"] = piece.text
        choice["logprobs"] = self._log_probs(row, [piece])
        choice["finish_reason"] = _REASONS[done.finish_reason] if done else None
        self._begun = True
        facts = self._facts("chat.completion.chunk" if self._chat else "text_completion", [choice])
        if done is not None:
            facts["usage"] = _usage(done.prompt_tokens, len(done.tokens))
        return event(facts)

    def end(self) -> bytes:
        return b"data: [DONE]\n\n"

    def failed(self, message: str) -> bytes:
        return event({"error": {"message": message, "type": "InternalServerError", "code": 500}}) + self.end()

    def whole(self, rows: Sequence[Row], pieces: Sequence[Sequence[TextPiece]]) -> bytes:
        choices, prompt, generated = [], 0, 0
        for index, (row, ones) in enumerate(zip(rows, pieces, strict=True)):
            done = ones[-1].completion
            assert done is not None
            generated += len(done.tokens)
            prompt += done.prompt_tokens if index % self._sequences == 0 else 0
            choice: dict[str, Any] = {"index": index}
            if self._chat:
                choice["message"] = {"role": "assistant", "content": done.text}
            else:
                choice["text"] = (self._prompts[index // self._sequences].text if self._echo else "") + done.text
            choice |= {"logprobs": self._log_probs(row, ones), "finish_reason": _REASONS[done.finish_reason]}
            choices.append(choice)
        facts = self._facts("chat.completion" if self._chat else "text_completion", choices)
        return dump(facts | {"usage": _usage(prompt, generated)})

    def _facts(self, kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model, "choices": choices}

    def _log_probs(self, row: Row, pieces: Sequence[TextPiece]) -> dict[str, Any] | None:
        if not self._logprobs:
            return None
        if self._chat:
            return {"content": [self._chat_token(row, piece.token, piece.text) for piece in pieces]}
        return {
            "tokens": [piece.text for piece in pieces],
            "token_logprobs": [piece.token.log_prob for piece in pieces],
            "top_logprobs": [{row.text_of(i): log_prob for i, log_prob in piece.token.top} for piece in pieces],
        }

    def _chat_token(self, row: Row, token: Token, text: str) -> dict[str, Any]:
        top = [_chosen(row.text_of(one), log_prob) for one, log_prob in token.top]
        return _chosen(text, token.log_prob) | {"top_logprobs": top}


def _chosen(text: str, log_prob: float) -> dict[str, Any]:
    return {"token": text, "logprob": log_prob, "bytes": list(text.encode("utf-8", "replace"))}


def _usage(prompt: int, generated: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": generated, "total_tokens": prompt + generated}
