from __future__ import annotations

import json
from html.parser import HTMLParser
from math import log

from compiler.calibration.outliers import Channel, Outliers
from compiler.numerics.gate.evidence import Evidence, TokenBlock
from compiler.numerics.gate.report import as_html, as_json, as_text, largest, worst
from compiler.numerics.gate.verdict import PartError, Verdict
from compiler.quantization.schemes import Tolerance

PARTS = (
    PartError("layers.0.attn", 0.001, 0.99999, 5, 0.0005, 0.01, 0.02, 5),
    PartError("layers.0.mlp", 0.002, 0.99999, 6, 0.001, 0.01, 0.02, 6),
    PartError("layers.1.attn", 0.9, 0.71, 7, 0.3, 0.01, 0.02, 7),
    PartError("layers.1.mlp", float("inf"), 0.0, 8, float("inf"), float("inf"), float("inf"), 8),
)


def _evidence(kl: float, agree: int, after: float) -> Evidence:
    """Two blocks, 80 tokens, of a perplexity of 8 that becomes `after`."""
    before, behind = 40 * log(8.0), 40 * log(after)
    return Evidence((TokenBlock(40, 40, 40 * kl, agree, before, behind),) * 2)


VERDICT = Verdict(PARTS, "sha256:12", _evidence(0.0123, 39, 8.4), 80, (0, 1))
OUTLIERS = (
    Outliers("layers.0.attn.q", 0.5, (Channel(3, 4.0), Channel(1, 1.0))),
    Outliers("layers.1.mlp.down", 0.1, (Channel(77, 123.4),)),
)
TOLERANCE = Tolerance(perplexity=0.02, kl=0.02, stream=0.05)


class _Page(HTMLParser):
    """What stands in a page: (tag, class) of every element, links to elsewhere, and whether all that opens closes."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, str]] = []
        self.links: list[str] = []
        self.open: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs).get("class") or ""))
        self.links += [value or "" for name, value in attrs if name in ("src", "href")]
        if tag != "meta":
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs).get("class") or ""))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_worst_come_first() -> None:
    assert [part.name for part in worst(VERDICT, 2)] == ["layers.1.mlp", "layers.1.attn"]


def test_text_says_what_was_lost_and_where() -> None:
    first, *others = as_text(VERDICT).splitlines()
    assert first == (
        "perplexity 8 -> 8.4 (+5.00%, 95 % within +5.00% and +5.00%), KL 0.012, same first choice 97.5%, over 80 tokens"
    )
    assert others[1] == "layers.1.attn: off by 30.00% of the stream, 90.00% of itself, output 7 most"
    assert len(others) == 3


def test_the_page_stands_alone_and_marks_what_is_beyond_its_limit() -> None:
    page = _Page(as_html(VERDICT, TOLERANCE, OUTLIERS, "llama <tiny>"))
    assert not page.open
    assert not page.links
    bars = [kind for tag, kind in page.found if tag == "rect"]
    assert bars == ["attn", "mlp", "over", "over", "attn", "mlp"]
    assert [kind for tag, kind in page.found if tag == "tr"].count("over") == 3  # the perplexity and two parts
    assert "llama &lt;tiny&gt;" in as_html(VERDICT, TOLERANCE, OUTLIERS, "llama <tiny>")
    assert "Infinity" not in as_html(VERDICT, TOLERANCE, OUTLIERS, "")


def test_inputs_that_a_channel_dominates_are_named() -> None:
    assert [one.name for one in largest(OUTLIERS, 1)] == ["layers.1.mlp.down"]
    page = as_html(VERDICT, TOLERANCE, OUTLIERS, "")
    assert "<td>layers.1.mlp.down</td><td>1234.0</td><td>0.1</td><td>77 (123)</td>" in page
    assert "layers.0.attn.q: channel 3, 8 x the median" in page
    assert "Outliers" not in as_html(VERDICT, TOLERANCE, (), "")


def test_scripts_read_the_same() -> None:
    told = json.loads(json.dumps(as_json(VERDICT, TOLERANCE, OUTLIERS), allow_nan=False))
    assert told["limits"] == {
        "perplexity_increase": 0.02,
        "kl": 0.02,
        "stream": 0.05,
        "distance": TOLERANCE.distance,
        "channel_distance": TOLERANCE.channel,
    }
    assert told["parts"][2]["name"] == "layers.1.attn"
    assert told["outliers"][1] == {
        "name": "layers.1.mlp.down", "median": 0.1, "channels": [{"index": 77, "largest": 123.4}], "ratio": 1234.0
    }  # fmt: skip


def test_a_good_model_has_nothing_marked() -> None:
    good = Verdict(PARTS[:2], "sha256:12", _evidence(0.001, 40, 8.01), 80)
    found = _Page(as_html(good, TOLERANCE, (), "good")).found
    assert "over" not in {kind for tag, kind in found if tag in ("rect", "tr")}
