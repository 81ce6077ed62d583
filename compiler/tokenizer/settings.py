"""Settings of a tokenizer: tokenizer_config.json, special_tokens_map.json, added_tokens.json.

Format: `PreTrainedTokenizerBase.from_pretrained` of transformers 4.34 to 5.23. `added_tokens_decoder` holds every added
token; where it is absent, special_tokens_map.json and added_tokens.json do.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compiler.errors import TokenizerError
from compiler.storage.checkpoints.lfs import POINTER_HINT, is_pointer_file

if TYPE_CHECKING:
    from pathlib import Path

NAMED = ("bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token")
"""Keys of single special tokens, in the order in which transformers adds those that a vocabulary lacks."""
_LISTS = ("additional_special_tokens", "extra_special_tokens")
_FLAGS = ("special", "lstrip", "rstrip", "normalized", "single_word")


@dataclass(frozen=True)
class ExtraToken:
    """Token beside the regular vocabulary. `id` None: the next free one. Flags: those of `tokenizers.AddedToken`."""

    content: str
    id: int | None = None
    special: bool = False
    lstrip: bool = False
    rstrip: bool = False
    normalized: bool = False
    single_word: bool = False


@dataclass(frozen=True)
class TokenizerSettings:
    """Settings of a tokenizer. `name`: its class, "" if unnamed; `model_type`: of config.json. `named`: content of each
    token of NAMED that is set. `add_bos`, `add_eos` None: the class decides. `code`: Python file of the checkpoint that
    defines the class, "" for a class of transformers.
    """

    name: str = ""
    model_type: str = ""
    named: Mapping[str, str] | None = None
    extra: tuple[ExtraToken, ...] = ()
    add_bos: bool | None = None
    add_eos: bool | None = None
    legacy: bool = True
    code: str = ""

    def token(self, key: str) -> str | None:
        """Content of a token of NAMED; None if it is not set."""
        return (self.named or {}).get(key)


def read_settings(folder: Path) -> TokenizerSettings:
    """Settings in `folder`; the defaults where it has none.

    Raises TokenizerError with file, key and value where a value has the wrong kind.
    """
    own = read_object(folder / "tokenizer_config.json")
    model = read_object(folder / "config.json").get("model_type")
    where = folder / "tokenizer_config.json"
    specials, extra, place = own, _decoder(own, where), where
    if "added_tokens_decoder" not in own and (marks := read_object(folder / "special_tokens_map.json")):
        specials, place = {**own, **marks}, folder / "special_tokens_map.json"
    if "added_tokens_decoder" not in own:
        extra = _numbered(read_object(folder / "added_tokens.json"), folder / "added_tokens.json")
    named = {key: text for key in NAMED if (text := _content(specials.get(key), key, place)) is not None}
    listed = [
        text
        for key in _LISTS
        for one in _items(specials.get(key), key, place)
        if (text := _content(one, key, place)) is not None
    ]
    special = {*named.values(), *listed}
    return TokenizerSettings(
        name=_kind(own, "tokenizer_class", str, where) or "",
        model_type=model if isinstance(model, str) else "",
        named=named,
        extra=(
            *(ExtraToken(**{**vars(one), "special": one.special or one.content in special}) for one in extra),
            *(ExtraToken(text, special=True) for text in [*named.values(), *listed]),
        ),
        add_bos=_kind(own, "add_bos_token", bool, where),
        add_eos=_kind(own, "add_eos_token", bool, where),
        legacy=_kind(own, "legacy", bool, where) is not False,
        code=_code(own),
    )


def read_object(path: Path) -> dict[str, Any]:
    """JSON object in the file `path`, in any Unicode encoding; {} without a file. Raises TokenizerError."""
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError, OSError) as error:
        raise damaged(path, f"expected a JSON object: {error}") from None
    if not isinstance(found, dict):
        raise damaged(path, f"expected a JSON object; found {type(found).__name__}")
    return found


def damaged(path: Path, text: str) -> TokenizerError:
    """Error for a file of a tokenizer that is not what it should be; a git-lfs pointer is named as such."""
    if is_pointer_file(path):
        return TokenizerError(
            f"{path} is a git-lfs pointer of {path.stat().st_size} bytes, not the file itself",
            hint=POINTER_HINT,
        )
    return TokenizerError(
        f"{path}: {text}", hint="download the file again, or pass another tokenizer with `--tokenizer DIR`"
    )


def _kind(own: Mapping[str, Any], key: str, kind: type[Any], where: Path) -> Any:
    value = own.get(key)
    if value is not None and not isinstance(value, kind):
        raise damaged(where, f"expected `{key}` to be a {kind.__name__}; found {value!r:.80}")
    return value


def _items(value: Any, key: str, where: Path) -> list[Any]:
    """Entries of a list of tokens; transformers 4.5x writes `extra_special_tokens` as a map of names."""
    if value is None:
        return []
    if isinstance(value, Mapping):
        return list(value.values())
    if not isinstance(value, list):
        raise damaged(where, f"expected `{key}` to be a list of tokens; found {value!r:.80}")
    return value


def _content(value: Any, key: str, where: Path) -> str | None:
    """Content of a token: a string, or an object with `content`."""
    if isinstance(value, Mapping):
        value = value.get("content")
    if value is not None and not isinstance(value, str):
        raise damaged(where, f"expected `{key}` to be a token; found {value!r:.80}")
    return value


def _decoder(own: Mapping[str, Any], where: Path) -> list[ExtraToken]:
    """Tokens of `added_tokens_decoder`, {id: token}, by id."""
    found = own.get("added_tokens_decoder")
    if found is None:
        return []
    if not isinstance(found, Mapping):
        raise damaged(where, f"expected `added_tokens_decoder` to map ids to tokens; found {found!r:.80}")
    tokens = []
    for number, token in found.items():
        content = token.get("content") if isinstance(token, Mapping) else token
        if not number.isdecimal() or not isinstance(content, str):
            raise damaged(
                where, f"expected an id and a token in `added_tokens_decoder`; found {number!r}: {token!r:.80}"
            )
        flags = {flag: bool(token.get(flag)) for flag in _FLAGS} if isinstance(token, Mapping) else {}
        tokens.append(ExtraToken(content, int(number), **flags))
    return sorted(tokens, key=lambda token: token.id or 0)


def _numbered(found: Mapping[str, Any], where: Path) -> list[ExtraToken]:
    """Tokens of added_tokens.json, {token: id}, by id."""
    wrong = {text: number for text, number in found.items() if type(number) is not int}
    if wrong:
        raise damaged(where, f"expected an id for each token; found {wrong!r:.80}")
    tokens = (ExtraToken(text, number, normalized=True) for text, number in found.items())
    return sorted(tokens, key=lambda token: token.id or 0)


def _code(own: Mapping[str, Any]) -> str:
    """Python file of `auto_map.AutoTokenizer`: `module.Class`, or [slow, fast] of them; "" without one."""
    names = own.get("auto_map")
    name = names.get("AutoTokenizer") if isinstance(names, Mapping) else names
    if isinstance(name, list):
        name = next((one for one in reversed(name) if isinstance(one, str)), None)
    return f"{name.rpartition('--')[2].partition('.')[0]}.py" if isinstance(name, str) else ""
