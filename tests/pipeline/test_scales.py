"""Calibration and scales behind the cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from compiler.calibration import activations
from compiler.calibration import scales as scale
from compiler.calibration.samples import Samples
from compiler.errors import UsageError
from compiler.pipeline.runner import CachedRunner
from compiler.pipeline.steps.calibrate import calibrate
from compiler.pipeline.steps.digest import Source
from compiler.pipeline.steps.scales import make_scales
from compiler.quantization.request import Quant
from compiler.quantization.scaling import Scaling
from compiler.quantization.schemes import SCHEMES
from compiler.storage.cache.stages import CacheEntry, StageCache
from compiler.storage.files.digest import sha256_file
from tests.builds import kill_when_reached
from tests.calibration.test_activations import SAMPLES, opened

Folders = Callable[[str], Path]
MEMORY = 1 << 30
SMOOTH = SCHEMES["smoothquant"]


@dataclass
class Recorded:
    """A report that keeps what it is told."""

    notes: list[str] = field(default_factory=list)
    totals: set[int] = field(default_factory=set)
    warnings: list[str] = field(default_factory=list)
    stage: str = ""

    def begin(self, stage: str) -> None: ...

    def progress(self, *told: Any) -> None:
        self.totals.add(told[1])

    def end(self, note: str) -> None:
        self.notes.append(note)

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def _source(folder: Path, digest: str = "sha256:1") -> Source:
    model = opened(folder)
    return Source(model.config, model.tensors, model.checkpoint, digest)


def _cache(folder: Path) -> StageCache:
    return StageCache(folder / "cache", warn=Recorded().warn)


def test_calibration_is_cached_by_samples_and_source(tiny_checkpoint: Folders, tmp_path: Path) -> None:
    source, report = _source(tiny_checkpoint("llama")), Recorded()
    first = calibrate(CachedRunner(_cache(tmp_path), report), source, SAMPLES, "cpu", MEMORY)
    again = calibrate(CachedRunner(_cache(tmp_path), report), source, SAMPLES, "cpu", MEMORY)
    assert (first.fresh, again.fresh) == (True, False)
    assert first.files == again.files
    assert report.notes == ["104 tokens of made", "cached"]
    assert not list(_cache(tmp_path).partial.iterdir())
    other = Samples(SAMPLES.ids[:2], "made", "sha256:0")
    assert calibrate(CachedRunner(_cache(tmp_path), report), source, other, "cpu", MEMORY).fresh
    assert calibrate(
        CachedRunner(_cache(tmp_path), report), replace(source, digest="sha256:2"), SAMPLES, "cpu", MEMORY
    ).fresh


def test_scales_depend_on_scheme_and_alpha(tiny_checkpoint: Folders, tmp_path: Path) -> None:
    source, report, cache = _source(tiny_checkpoint("llama")), Recorded(), _cache(tmp_path)
    maxima = calibrate(CachedRunner(cache, report), source, SAMPLES, "cpu", MEMORY)

    def made(scheme: str, alpha: float, calibration: CacheEntry | None = maxima) -> tuple[bool, str]:
        asked, scaling = Quant(SCHEMES[scheme], alpha), Scaling(SCHEMES[scheme])
        entry = make_scales(CachedRunner(cache, report), source, asked, scaling, calibration, MEMORY)
        return entry.fresh, sha256_file(entry.folder / scale.RESULT)

    fresh, half = made("smoothquant", 0.5)
    assert fresh
    assert made("smoothquant", 0.5) == (False, half)
    fresh, more = made("smoothquant", 0.8)
    assert fresh
    assert more != half
    assert made("int8-weight", 0.5, None)[0]
    assert not made("int8-weight", 0.8, None)[0]
    with pytest.raises(UsageError, match="from 0 to 1"):
        made("smoothquant", 1.5)


_KILLED = """
import sys, time
from pathlib import Path
from compiler.pipeline.runner import CachedRunner
from compiler.pipeline.steps.calibrate import calibrate
from tests.pipeline.test_scales import MEMORY, SAMPLES, Recorded, _cache, _source
class Slow(Recorded):
    def progress(self, done, total, unit):
        if done == 144:
            print("reached", flush=True)
            time.sleep(60)
calibrate(CachedRunner(_cache(Path(sys.argv[2])), Slow()), _source(Path(sys.argv[1])), SAMPLES, "cpu", MEMORY)
"""


def test_a_killed_calibration_goes_on_where_it_was(tiny_checkpoint: Folders, tmp_path: Path) -> None:
    folder = tiny_checkpoint("llama")
    kill_when_reached(_KILLED, str(folder), str(tmp_path))
    cache, report = _cache(tmp_path), Recorded()
    cache.sweep()  # as every build does: what can go on stays
    entry = calibrate(CachedRunner(cache, report), _source(folder), SAMPLES, "cpu", MEMORY)
    assert report.totals == {208}
    (tmp_path / "whole").mkdir()
    opened(folder).calibrate(tmp_path / "whole")
    assert sha256_file(entry.folder / activations.RESULT) == sha256_file(tmp_path / "whole" / activations.RESULT)


def test_clearing_the_cache_clears_what_was_begun(tmp_path: Path) -> None:
    cache = _cache(tmp_path)
    (cache.partial / "calibrate-1").mkdir(parents=True)
    cache.clear()
    assert not cache.partial.exists()
