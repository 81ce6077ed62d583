"""Time limits from sizes and from the reports that `prewarm` writes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks.testbed.artifacts import manifest
from compiler.deploy.prewarm import Prewarmed, PrewarmPhase
from compiler.deploy.time_limits import LEAST_DOWNLOAD, UNMEASURED, TimeLimits, parse_prewarm, time_limits

PHASES = (PrewarmPhase("fetch", 700.0, 10), PrewarmPhase("verify", 30.0, 10), PrewarmPhase("answer", 99.0))
ANSWER: dict[str, Any] = {"seconds_to_load": 60.0, "seconds_to_first_token": 0.5, "finish_reason": "length"}
REPORT = Prewarmed("tiny", manifest().digest, "s3://store/tiny@v1", Path("/models/tiny"), PHASES, ANSWER, None)


def _limits(report: Prewarmed, size: int = 1) -> TimeLimits:
    return time_limits(size, parse_prewarm(json.dumps(report.to_json()).encode(), "prewarm.json", manifest()))


def test_the_start_up_is_a_multiple_of_what_was_measured() -> None:
    assert _limits(REPORT) == TimeLimits(LEAST_DOWNLOAD, int(3 * 90.5 + 120), 0.5)


def test_an_artifact_that_nothing_here_runs_gets_the_default() -> None:
    found = _limits(replace(REPORT, answer=None, unproven="its engines are run by the container"))
    assert found == TimeLimits(LEAST_DOWNLOAD, UNMEASURED) == time_limits(1, None)


@pytest.mark.parametrize(("size", "seconds"), [(10**9, 300), (94 * 10**9, 1880), (10**12, 3600)])
def test_the_download_grows_with_the_size_up_to_sagemakers_limit(size: int, seconds: int) -> None:
    assert time_limits(size, None).download == seconds


@pytest.mark.parametrize(("load", "seconds"), [(0.0, 211), (10_000.0, 3600)])
def test_the_start_up_stays_within_sagemakers_limits(load: float, seconds: int) -> None:
    assert _limits(replace(REPORT, answer=ANSWER | {"seconds_to_load": load})).startup == seconds
