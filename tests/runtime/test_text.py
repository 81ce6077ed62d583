"""Streams of text against simple oracles: joined pieces, whole characters, and the first stop sequence."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from tokenizers import decoders

from compiler.runtime.text import REPLACEMENT, Detokenizer, StopMatcher

# Code points of one to four bytes, combining marks, joined emoji, and the character that stands for broken ones.
SAMPLES = [
    "a",
    " ",
    "é",
    "e\u0301",
    "ß",
    "€",
    "日本",
    "\u0301",
    "👩‍👩‍👧",
    "🇩🇪",
    "👍🏽",
    REPLACEMENT,
    "\n",
    "ﬁ",
    "\U0010ffff",
]
TEXTS = st.lists(st.one_of(st.sampled_from(SAMPLES), st.text(max_size=3)), max_size=12).map("".join)


def _letters() -> list[str]:
    """The character by which byte-level BPE writes each byte: itself where printable, else the next one from 256 on."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]


LETTERS = _letters()
BYTE_LEVEL = decoders.ByteLevel()
BYTE_FALLBACK = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])


@st.composite
def byte_level_tokens(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A text and its UTF-8 cut anywhere, as tokens of byte-level BPE."""
    text = draw(TEXTS)
    raw = text.encode()
    cuts = sorted(draw(st.sets(st.integers(0, len(raw)))) | {0, len(raw)})
    return text, ["".join(LETTERS[b] for b in raw[i:j]) for i, j in pairwise(cuts)]


@st.composite
def byte_fallback_tokens(draw: st.DrawFn) -> tuple[str, list[str]]:
    """A text as tokens of sentencepiece: pieces of characters, and characters byte by byte."""
    text = draw(TEXTS)
    tokens: list[str] = []
    for character in text:
        if draw(st.booleans()):
            tokens += [f"<0x{byte:02X}>" for byte in character.encode()]
        else:
            tokens.append("▁" if character == " " else character)
    return text, tokens


def _stream(decode: Callable[[list[str]], str], tokens: list[str], prompt: int) -> list[str]:
    """The pieces that the tokens from `prompt` on make, the flush last."""
    detokenizer = Detokenizer(lambda ids: decode([tokens[i] for i in ids]), range(prompt))
    pieces = [detokenizer.push(i) for i in range(prompt, len(tokens))]
    return [*pieces, detokenizer.flush()]


@given(byte_level_tokens())
def test_byte_level_pieces_join_to_the_text_and_hold_whole_characters(case: tuple[str, list[str]]) -> None:
    text, tokens = case
    pieces = _stream(BYTE_LEVEL.decode, tokens, 0)
    assert "".join(pieces) == text
    assert sum(piece.count(REPLACEMENT) for piece in pieces) == text.count(REPLACEMENT)


@given(byte_fallback_tokens())
def test_byte_fallback_pieces_join_to_the_text_and_hold_whole_characters(case: tuple[str, list[str]]) -> None:
    text, tokens = case
    assert "".join(_stream(BYTE_FALLBACK.decode, tokens, 0)) == text


@given(byte_level_tokens(), byte_level_tokens())
def test_the_prompt_is_no_part_of_the_answer(prompt: tuple[str, list[str]], answer: tuple[str, list[str]]) -> None:
    pieces = _stream(BYTE_LEVEL.decode, prompt[1] + answer[1], len(prompt[1]))
    assert "".join(pieces) == answer[0]


def test_a_character_comes_with_its_last_byte_and_not_later() -> None:
    for character in ("a", "é", "€", "👍"):
        pieces = _stream(BYTE_LEVEL.decode, [LETTERS[byte] for byte in ("x" + character).encode()], 1)
        assert pieces == [""] * (len(character.encode()) - 1) + [character, ""]


def test_an_incomplete_character_at_the_end_is_shown_as_broken() -> None:
    pieces = _stream(BYTE_LEVEL.decode, ["a", *(LETTERS[byte] for byte in "€".encode()[:2])], 0)
    assert pieces == ["a", "", "", REPLACEMENT]


def test_bytes_that_never_become_a_character_come_with_the_next_text() -> None:
    pieces = _stream(BYTE_FALLBACK.decode, ["a", "<0xFF>", "<0xFF>", "b", "c", "<0xFF>"], 0)
    assert pieces == ["a", "", "", 2 * REPLACEMENT + "b", "c", "", REPLACEMENT]


def test_an_answer_keeps_the_blank_that_separates_it_from_the_prompt() -> None:
    sentencepiece = decoders.Metaspace(prepend_scheme="always")
    assert _stream(sentencepiece.decode, ["▁Hello", "▁world", "▁!"], 1) == [" world", " !", ""]
    assert _stream(sentencepiece.decode, ["▁Hello", "▁world"], 0) == ["Hello", " world", ""]


STOPS = st.lists(st.text("ab", min_size=1, max_size=4), max_size=3)


def _cut(text: str, stops: Sequence[str]) -> tuple[str, bool]:
    """Read the text character by character until it ends with a stop sequence."""
    for end in range(len(text) + 1):
        found = [stop for stop in stops if text[:end].endswith(stop)]
        if found:
            return text[: end - max(map(len, found))], True
    return text, False


@given(st.lists(st.text("abc", max_size=5), max_size=8), STOPS)
def test_text_is_cut_before_the_first_stop_sequence(pieces: list[str], stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    shown, stopped = "", False
    for piece in pieces:
        text, stopped = matcher.push(piece)
        shown += text
        if stopped:
            break
    assert (shown + ("" if stopped else matcher.flush()), stopped) == _cut("".join(pieces), stops)


@given(st.text("abc", max_size=12), STOPS)
def test_only_what_may_begin_a_stop_sequence_is_held_back(text: str, stops: list[str]) -> None:
    matcher = StopMatcher(stops)
    shown, stopped = matcher.push(text)
    if not stopped:
        held = text[len(shown) :]
        assert any(stop.startswith(held) and stop != held for stop in stops) or not held
