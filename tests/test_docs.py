"""Documentation: generated pages are current, links lead somewhere, shell blocks of tutorials run."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from benchmarks.testbed import chart, terminal
from tests import doc_pages
from tests.command import command

ROOT = Path(__file__).parents[1]
PAGES = ROOT / "docs/pages"
TEXTS = sorted(PAGES.rglob("*.md"))
OTHERS = [ROOT / "README.md", ROOT / "examples/README.md", *sorted((ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("name", doc_pages.pages())
def test_reference_pages_are_those_of_the_program(name: str) -> None:
    """After a change that is meant: `python -m tests.doc_pages`."""
    assert (doc_pages.PAGES / name).read_text() == doc_pages.pages()[name]


def test_the_chart_is_that_of_the_results() -> None:
    """After new figures: `python -m benchmarks.testbed.chart`."""
    assert chart.CHART.read_text() == chart.chart(chart.seconds())


def test_a_picture_of_a_log_has_its_end_and_refers_to_nothing() -> None:
    lines = [f"line {number}" for number in range(40)]
    svg = terminal.picture("\n".join([*lines, "$ lmi-compile models"])).replace("&#160;", " ")
    assert ("line 39" in svg, "line 3<" in svg, "$ lmi-compile models" in svg) == (True, False, True)
    assert "url(http" not in svg
    assert 'url("' not in svg


def test_the_readme_is_short_and_says_the_charts_figures() -> None:
    text = (ROOT / "README.md").read_text()
    assert len(text.splitlines()) <= 150
    for value in chart.seconds().values():
        assert f"{value:.1f} s" in text


def test_the_readme_counts_recipes_as_the_program_does(tmp_path: Path) -> None:
    found = command("models", "--json", cache=tmp_path).json
    text = (ROOT / "README.md").read_text()
    assert f"{sum(len(recipe['architectures']) for recipe in found)} architectures" in text
    assert f"{len(found)} recipes" in text
    for target in ("trtllm", "vllm", "neuron"):
        count = sum(not recipe["targets"][target]["--quant none"] for recipe in found)
        assert re.search(rf"^\| `{target}` .*\| {count} \|$", text, re.MULTILINE)


@pytest.mark.parametrize("page", [*OTHERS, *TEXTS], ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_to_files_and_headings(page: Path) -> None:
    for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        place, _, heading = link.partition("#")
        if place.startswith("http"):
            continue
        target = (page.parent / place).resolve() if place else page
        assert target.is_file(), link
        if heading:
            titles = re.findall(r"^#+ (.+)$", target.read_text(), re.MULTILINE)
            assert heading in {re.sub(r"[^\w-]+", "-", re.sub(r"[.,]", "", one.lower())).strip("-") for one in titles}


def test_every_page_has_a_place_in_the_navigation() -> None:
    def paths(node: Any) -> list[str]:
        if isinstance(node, str):
            return [node]
        return [path for one in (node.values() if isinstance(node, dict) else node) for path in paths(one)]

    listed = paths(yaml.safe_load((ROOT / "docs/mkdocs.yml").read_text())["nav"])
    assert sorted(listed) == [str(page.relative_to(PAGES)) for page in TEXTS]


def blocks(page: Path) -> list[str]:
    """Command lines of the shell blocks of a page, in order."""
    found = re.findall(r"^```sh\n(.*?)^```", page.read_text(), re.MULTILINE | re.DOTALL)
    return [line for block in found for line in block.splitlines() if line.strip()]


@pytest.mark.parametrize("page", sorted((PAGES / "tutorials").glob("*.md")), ids=lambda page: page.stem)
def test_commands_of_tutorials_run_in_their_order(
    page: Path, tiny_artifact: Callable[[str, int], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A build ends before verify and uses the stand-in for the compiler; its output is then replaced by one that
    was compiled and verified.
    """
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    monkeypatch.chdir(tmp_path)
    assert blocks(page)
    for line in blocks(page):
        program, *words = shlex.split(line)
        assert program == "lmi-compile"
        more = ["--until", "package"] if words[0] == "build" else []
        ran = command(*words, *more, cache=tmp_path / "cache")
        assert ran.code == 0, f"{line}\n{ran.err}"
        if words[0] == "build":
            output = Path(words[words.index("--output") + 1])
            shutil.rmtree(output)
            shutil.copytree(tiny_artifact("mixtral", 2), output, copy_function=shutil.copyfile)
