"""provenance.json: source, command and toolchain of an artifact, as an in-toto statement with SLSA provenance.

Formats: in-toto attestation framework, Statement v1 (https://in-toto.io/Statement/v1); SLSA provenance v1
(https://slsa.dev/provenance/v1). The manifest lists it with its digest, so a signature of the manifest covers it. Its
subjects are all other files.

Its content depends only on the manifest and two variables, so that the same build gives the same bytes:

    LMI_COMPILE_BUILDER    the builder, a URI: a CI job sets it, for example to the URL of its workflow
    SOURCE_DATE_EPOCH      the time, seconds since 1970 (https://reproducible-builds.org/specs/source-date-epoch)

Without them the builder is unnamed, and there is no time. It contains no host name, user, path or environment.
"""

from __future__ import annotations

import datetime
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from compiler.errors import UsageError
from compiler.quantization.schemes import ALPHA_OPTION, FLOAT, SMOOTH

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compiler.artifact.manifest import Manifest

MEDIA_TYPE = "application/vnd.in-toto+json"

BUILD_TYPE = "urn:lmi-compile:build:v1"
"""Build type, under which `externalParameters` are the manifest's fields of the same names."""
NOBODY = "urn:lmi-compile:builder:unnamed"

_NOT_ASKED = {"files", "numerics", "section", "schema_version", "stand_in", "writer"}
"""Fields of the manifest that are results of the build, not parameters."""
_ELSEWHERE = {"model", "toolchain", "plan_digest"}
"""Fields that are in other places of the statement."""


def _excluded() -> dict[str, Any]:
    whole: dict[str, Any] = dict.fromkeys(_NOT_ASKED | _ELSEWHERE, True)
    return whole | {"quantisation": {"gate"}}


def provenance(manifest: Manifest, version: str, environment: Mapping[str, str]) -> bytes:
    """Make the statement about the files of `manifest`, built by this `version` of lmi-compile.

    Raises UsageError (a malformed variable).
    """
    when = built_at(environment)
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [
            {"name": file.path, "digest": {"sha256": file.digest.removeprefix("sha256:")}} for file in manifest.files
        ],
        "predicateType": "https://slsa.dev/provenance/v1",
        "predicate": {
            "buildDefinition": {
                "buildType": BUILD_TYPE,
                "externalParameters": {
                    "command": _command(manifest),
                    "recipe": manifest.model.recipe,
                    **manifest.model_dump(mode="json", exclude=_excluded()),
                },
                "internalParameters": {"plan_digest": manifest.plan_digest},
                "resolvedDependencies": [_source(manifest), *_calibration(manifest), *_toolchain(manifest)],
            },
            "runDetails": {
                "builder": {
                    "id": _builder(environment),
                    "version": {"lmi-compile": version},
                },
                **({"metadata": {"startedOn": when, "finishedOn": when}} if when else {}),
            },
        },
    }
    return (json.dumps(statement, indent=2, sort_keys=True, ensure_ascii=True) + "\n").encode()


def built_at(environment: Mapping[str, str]) -> str | None:
    """SOURCE_DATE_EPOCH as RFC 3339; None if it is not set. Raises UsageError."""
    text = environment.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not text.isdecimal() or int(text) > 253_402_300_799:  # the year 9999
        raise UsageError(
            f"SOURCE_DATE_EPOCH is `{text}`: expected whole seconds since 1970",
            hint="set it to the output of `date +%s`, or unset it",
        )
    return datetime.datetime.fromtimestamp(int(text), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def model_purl(manifest: Manifest) -> str | None:
    """Package URL of a model of the Hugging Face hub (package-url type `huggingface`); None for other sources."""
    model = manifest.model
    if model.repo_id is None or model.revision is None:
        return None
    return f"pkg:huggingface/{quote(model.repo_id)}@{model.revision.lower()}"


def pypi_purl(name: str, version: str) -> str:
    """Package URL of a distribution on PyPI."""
    return f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(version, safe='.')}"


def _builder(environment: Mapping[str, str]) -> str:
    name = environment.get("LMI_COMPILE_BUILDER", "") or NOBODY
    if ":" not in name or any(c.isspace() for c in name):
        raise UsageError(
            f"LMI_COMPILE_BUILDER is `{name}`: expected a URI",
            hint="set it to a URI such as the URL of the CI workflow, or unset it",
        )
    return name


def _command(manifest: Manifest) -> list[str]:
    """Command that repeats the build. A source without a public name is `MODEL`; its digest identifies it."""
    model, limits = manifest.model, manifest.limits
    words = ["lmi-compile", "build", "--model", model.repo_id or "MODEL"]
    words += ["--revision", model.revision] if model.repo_id and model.revision else []
    words += ["--recipe", model.recipe, "--target", manifest.target, "--tp", str(manifest.parallel.tp)]
    words += ["--dtype", manifest.dtype, *_quantized(manifest)]
    return [*words, "--max-positions", str(limits.max_positions), "--max-batch", str(limits.max_batch)]


def _quantized(manifest: Manifest) -> list[str]:
    """Options of the command for quantization. A text of the user is `TEXT`; its digest identifies it."""
    found = manifest.quantisation
    if found is None:
        return []
    words = ["--quant", found.scheme] if found.scheme else []
    words += ["--max-perplexity-increase", f"{found.gate.limits['perplexity']:g}"] if found.mixture else []
    words += ["--group-size", str(found.group)] if found.group else []
    if found.activations != FLOAT:
        words.append("--per-token" if found.activation_scales == "token" else "--no-per-token")
        words.append("--per-channel" if found.weight_scales == "channel" else "--no-per-channel")
    if found.search == SMOOTH:
        words += [ALPHA_OPTION, "auto" if found.alpha is None else f"{found.alpha:g}"]
    words += ["--kv-cache", found.kv_cache] if found.kv_cache else []
    words += ["--lm-head", found.head] if found.head else []
    if (text := found.calibration) is not None:
        words += [] if text.text.startswith("built-in ") else ["--calibration", "TEXT"]
        words += ["--calibration-samples", str(text.samples), "--calibration-length", str(text.length)]
    return [*words, *(["--accept-numerics"] if found.gate.accepted else [])]


def _calibration(manifest: Manifest) -> list[dict[str, Any]]:
    text = manifest.quantisation.calibration if manifest.quantisation else None
    return [{"name": "calibration", "digest": {"sha256": text.digest.removeprefix("sha256:")}}] if text else []


def _source(manifest: Manifest) -> dict[str, Any]:
    model = manifest.model
    digest = {"sha256": model.source_digest.removeprefix("sha256:")}
    if model.revision is not None:
        digest["gitCommit"] = model.revision
    return {"name": "source", "uri": model_purl(manifest) or f"urn:lmi-compile:source:{model.source}", "digest": digest}


def _toolchain(manifest: Manifest) -> list[dict[str, Any]]:
    return [
        {"name": name, "annotations": {"version": version}, "uri": f"urn:lmi-compile:toolchain:{quote(name)}"}
        for name, version in sorted(manifest.toolchain.items())
    ]
