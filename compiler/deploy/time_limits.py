"""Time limits of an endpoint's download and start-up, from the artifact's size and a measured prewarm.

    download    size / SLOWEST, at least LEAST_DOWNLOAD
    start-up    FACTOR x (reading every byte + loading + first token) of prewarm.json, and SLACK;
                UNMEASURED where no machine of ours runs the artifact

Both are within SageMaker's limits. SLOWEST, FACTOR and SLACK are margins of ours, not measurements.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from compiler.errors import UsageError
from compiler.lmi.sagemaker import SECONDS

if TYPE_CHECKING:
    from compiler.artifact.manifest import Manifest

SLOWEST = 50_000_000
"""Bytes a second of a slow download from S3 to an instance."""
LEAST_DOWNLOAD = 300
FACTOR, SLACK = 3, 120
UNMEASURED = 1800


@dataclass(frozen=True)
class TimeLimits:
    """Seconds. `first_token`: of the prewarm, None without one."""

    download: int
    startup: int
    first_token: float | None = None


def time_limits(size: int, prewarm: dict[str, Any] | None) -> TimeLimits:
    """Time limits for an artifact of `size` bytes and the report of its prewarm."""
    download = _within(max(size / SLOWEST, LEAST_DOWNLOAD))
    answer = (prewarm or {}).get("answer")
    if not answer:
        return TimeLimits(download, UNMEASURED)
    read = sum(phase["seconds"] for phase in (prewarm or {})["phases"] if phase["name"] == "verify")
    measured = read + answer["seconds_to_load"] + answer["seconds_to_first_token"]
    return TimeLimits(download, _within(FACTOR * measured + SLACK), answer["seconds_to_first_token"])


def parse_prewarm(data: bytes, name: str, manifest: Manifest) -> dict[str, Any]:
    """Report of a prewarm. Raises UsageError if it is none, or one of another artifact."""
    try:
        found = json.loads(data)
        digest, answer = found["digest"], found["answer"]
        complete = answer is None or {"seconds_to_load", "seconds_to_first_token"} <= answer.keys()
        [(phase["name"], float(phase["seconds"])) for phase in found["phases"]]
    except (ValueError, KeyError, TypeError, AttributeError):
        complete, digest, found = False, "", {}
    if not complete:
        raise UsageError(f"{name} is no report of `lmi-compile prewarm`", hint="name its prewarm.json, or leave it out")
    if digest != manifest.digest:
        raise UsageError(
            f"{name} is of the artifact {digest}; this one is {manifest.digest}", hint="prewarm the artifact again"
        )
    return dict(found)


def _within(seconds: float) -> int:
    low, high = SECONDS
    return int(min(max(seconds, low), high))
