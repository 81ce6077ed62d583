"""Chat template of a tokenizer: messages -> text of a prompt.

Templates are Jinja, run in a sandbox as transformers runs them: blocks trimmed, loop controls, `raise_exception`,
`strftime_now`, `tojson` without escapes. Source: Hugging Face's documentation "Chat templates" (2025).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import RefusedError

if TYPE_CHECKING:
    from jinja2 import Template

_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def load_chat_template(folder: Path) -> Callable[[Sequence[Mapping[str, Any]]], str] | None:
    """Renderer of the tokenizer in `folder`; None if it has no template.

    The template is chat_template.jinja, or `chat_template` of tokenizer_config.json (of a list, that named "default").
    The renderer raises RefusedError for messages that the template refuses.
    """
    path, config = folder / "chat_template.jinja", _read(folder / "tokenizer_config.json")
    source = path.read_text(encoding="utf-8") if path.exists() else config.get("chat_template")
    if isinstance(source, list):
        named = {one.get("name"): one.get("template") for one in source if isinstance(one, dict)}
        source = named.get("default")
    if not isinstance(source, str):
        return None
    template = _compile(source)
    special = _read(folder / "special_tokens_map.json") | config
    tokens = {name: _content(special[name]) for name in _TOKENS if special.get(name) is not None}

    def render(messages: Sequence[Mapping[str, Any]]) -> str:
        from jinja2 import TemplateError

        try:
            return template.render(messages=list(messages), add_generation_prompt=True, tools=None, **tokens)
        except (TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise RefusedError(
                f"the chat template refuses these messages: {error}",
                hint="roles alternate between user and assistant in most templates, and few have a system message",
            ) from None

    return render


def _compile(source: str) -> Template:
    from jinja2 import TemplateError
    from jinja2.ext import loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    def raise_exception(message: str) -> None:
        raise TemplateError(message)

    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
    environment.globals["raise_exception"] = raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now(UTC).strftime(form)
    return environment.from_string(source)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _content(token: Any) -> str:
    return str(token.get("content", "")) if isinstance(token, dict) else str(token)
