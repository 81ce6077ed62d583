"""One HTML page about an artifact: `page_of`. No script, nothing from elsewhere; pictures are inline SVG beside tables.

facts      what the page says, from the artifact's own files and the records that are passed
pictures   bars, heads over ranks, errors by layer
template   HTML and colors
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from compiler.page.facts import Records


def page_of(folders: Sequence[Path], records: Records) -> str:
    """HTML of the artifacts in `folders`; of two, a comparison comes first. `records`: of the first.

    Raises ArtifactError, UsageError.
    """
    from compiler.page.facts import Records, facts_of
    from compiler.page.template import html

    found = [facts_of(folder, records if place == 0 else Records()) for place, folder in enumerate(folders)]
    return html(found)
