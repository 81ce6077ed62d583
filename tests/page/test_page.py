"""The page of an artifact: whole, self-contained, readable, and what the manifest says."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import pytest

from compiler.artifact.manifest import load_manifest
from compiler.errors import UsageError
from compiler.page import page_of
from compiler.page.facts import Records
from compiler.page.pictures import bars, errors, heads
from compiler.page.template import DARK, HEADS, LIGHT
from compiler.report import amount
from tests.command import Ran, command

VOID = {"meta", "br", "img", "link", "input", "hr"}


class Page(HTMLParser):
    """Tags in order, text, and the addresses that the page refers to. Fails on a tag that is not closed."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.texts: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "data", "action")]
        assert not [name for name, _ in attrs if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        del attrs
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module")
def built(tiny_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Ran]:
    """Artifacts of two targets, and the run of the first build."""
    folder = tmp_path_factory.mktemp("page")
    arguments = ("build", "--model", tiny_checkpoint("llama"), "--tp", "2", "--json")
    ran = command(*arguments, "--output", folder / "one", cache=folder / "cache")
    assert ran.code == 0, ran.err
    again = command(*arguments, "--max-batch", "2", "--output", folder / "other", cache=folder / "cache")
    assert again.code == 0, again.err
    return folder / "one", folder / "other", ran


def test_the_page_is_self_contained_and_has_the_manifests_figures(built: tuple[Path, Path, Ran]) -> None:
    manifest = load_manifest(built[0])
    text = page_of([built[0]], Records())
    page = Page(text)
    assert page.addresses == []
    assert not {"script", "link", "iframe", "object", "img"} & set(page.tags)
    assert "url(" not in text
    assert "@import" not in text
    assert "http" not in re.sub(r"https://slsa\.dev\S*|https://in-toto\.io\S*", "", text)
    assert manifest.digest in page.text
    assert manifest.plan_digest in page.text
    sizes = {file.path: file.size for file in manifest.files}
    for path in manifest.section.rank_files:
        assert f"{path} {amount(sizes[path], 'bytes')}" in page.text
    config = manifest.config
    first, last = f"0-{config.heads // 2 - 1}", f"{config.heads // 2}-{config.heads - 1}"
    assert (first in page.text) == (last in page.text) == (config.heads // 2 > 2)
    assert page.tags.count("svg") == 2  # bytes, and heads over ranks
    assert page.tags.count("table") >= page.tags.count("svg")
    assert "not signed" in page.text


def test_events_prewarm_and_starts_are_drawn(built: tuple[Path, Path, Ran], tmp_path: Path) -> None:
    events, start, prewarm = tmp_path / "events.jsonl", tmp_path / "start.json", tmp_path / "prewarm.json"
    events.write_text(built[2].err)
    start.write_text(json.dumps({"eager": 3.3, "compile cold": 35.6}))
    answer = {"seconds_to_load": 0.9, "seconds_to_first_token": 0.2}
    prewarm.write_text(json.dumps({"phases": [{"name": "verify", "seconds": 1.25}], "answer": answer}))
    page = Page(page_of([built[0]], Records(events, prewarm, start)))
    for words in ("convert", "compile cold 36 s", "eager 3.30 s", "prewarm here 1.10 s", "verify 1.25 s"):
        assert words in page.text
    stages = [json.loads(line)["stage"] for line in built[2].err.splitlines() if '"end"' in line]
    assert stages
    assert all(stage in page.text for stage in stages)
    ends = [json.loads(line) for line in built[2].err.splitlines() if '"end"' in line]
    assert all(end["max_memory"] == 1 << 30 and end["peak_memory"] > 10 << 20 for end in ends)
    assert all(amount(end["peak_memory"], "bytes") in page.text for end in ends)
    assert "--max-memory 1.07 GB" in page.text
    events.write_text("{")
    with pytest.raises(UsageError, match=r"`--events .*` is expected to have the lines"):
        page_of([built[0]], Records(events))


def test_two_artifacts_are_compared_line_by_line(built: tuple[Path, Path, Ran], tmp_path: Path) -> None:
    ran = command("report", built[0], "--compare", built[1], "--output", tmp_path / "p.html", "--json", cache=tmp_path)
    assert ran.json["file"] == str(tmp_path / "p.html")
    text = (tmp_path / "p.html").read_text()
    rows = re.findall(r'<tr><th scope="row">([^<]+)</th><td>([^<]*)</td><td>([^<]*)</td><td>([^<]*)</td>', text)
    found = {name: (one, other, sign) for name, one, other, sign in rows}
    assert found["digest"][2] == "\u2260"
    assert found["model"][2] == ""
    assert found["limits"][:2] != found["limits"][1::-1]
    assert Page(text).tags.count("svg") == 4


def test_heads_have_the_color_of_their_kv_head_and_empty_slots_none() -> None:
    svg = heads("t", [["0", "1"], ["2", ""]], [["0"], ["1"]])
    assert re.findall(r'class="(\w+)"', svg) == ["h0", "h0", "h0", "h1", "empty", "h1"]


def test_a_limit_is_a_line_at_its_value() -> None:
    svg = bars("t", [("convert", 50.0, "50"), ("compile", 200.0, "200")], (100.0, "ceiling"))
    edge = [float(x) + float(width) for x, width in re.findall(r'class="bar" x="([\d.]+)"[^>]*width="([\d.]+)"', svg)]
    (line,) = (float(x) for x in re.findall(r'class="limit" x1="([\d.]+)"', svg))
    assert edge[0] < line < edge[1]


def test_errors_are_drawn_to_scale_with_their_limit() -> None:
    svg = errors("t", [("layers.0.attn", 0.001), ("layers.0.mlp", 0.01)], 0.02)
    small, large = (float(one) for one in re.findall(r'class="bar"[^>]*height="([\d.]+)"', svg))
    assert small < large
    assert "limit 2.00%" in svg


@pytest.mark.parametrize("colors", [LIGHT, DARK], ids=["light", "dark"])
def test_text_has_the_contrast_of_wcag_aa(colors: dict[str, str]) -> None:
    for back in ("back", "panel"):
        for name in ("text", "muted", "code"):
            assert contrast(colors[name], colors[back]) >= 4.5, (name, back)
        for name in ("bar", "limit"):
            assert contrast(colors[name], colors[back]) >= 3, (name, back)
        for color in HEADS:
            assert contrast(color, colors[back]) >= 3, (color, back)


def contrast(one: str, other: str) -> float:
    """Ratio of WCAG 2.2, https://www.w3.org/TR/WCAG22/#dfn-contrast-ratio."""
    high, low = sorted((luminance(one), luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def luminance(color: str) -> float:
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
