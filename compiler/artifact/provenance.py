"""provenance.json: from what, how and by what an artifact was made, as an in-toto statement with SLSA provenance.

Formats: in-toto attestation framework, Statement v1 (https://in-toto.io/Statement/v1); SLSA provenance v1
(https://slsa.dev/provenance/v1). It is a file of the artifact, so the manifest has its digest and a signature of the
manifest covers it. Its subjects are all other files.

It follows from the manifest and two variables, so that the same build gives the same bytes:

    LMI_COMPILE_BUILDER    who built, an URI: a CI job sets it, for example to the URL of its workflow
    SOURCE_DATE_EPOCH      when, seconds since 1970 (https://reproducible-builds.org/specs/source-date-epoch)

Without them it says that nobody vouches for the builder, and no time. There is no host name, user, path or environment
in it.
"""

from __future__ import annotations

import datetime
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from compiler.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compiler.artifact.manifest import Manifest

MEDIA_TYPE = "application/vnd.in-toto+json"

BUILD_TYPE = "urn:lmi-compile:build:v1"
"""What `externalParameters` mean: the manifest's fields of the same names."""
NOBODY = "urn:lmi-compile:builder:unnamed"

_NOT_ASKED = {"files", "numerics", "section", "schema_version", "stand_in", "writer"}
"""Fields of the manifest that are results of the build."""
_ELSEWHERE = {"model", "toolchain", "plan_digest"}
"""Fields that stand in other places of the statement."""


def _excluded() -> dict[str, Any]:
    whole: dict[str, Any] = dict.fromkeys(_NOT_ASKED | _ELSEWHERE, True)
    return whole | {"quantisation": {"gate"}}


def provenance(manifest: Manifest, version: str, environment: Mapping[str, str]) -> bytes:
    """The statement about the files of `manifest`, made by this `version` of lmi-compile. Raises UsageError where a
    variable is malformed.
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
    """SOURCE_DATE_EPOCH as RFC 3339, None where it is not set. Raises UsageError."""
    text = environment.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return None
    if not text.isdecimal() or int(text) > 253_402_300_799:  # the year 9999
        raise UsageError(f"SOURCE_DATE_EPOCH is `{text}`: expected whole seconds since 1970")
    return datetime.datetime.fromtimestamp(int(text), datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def model_purl(manifest: Manifest) -> str | None:
    """The package URL of a model of the Hugging Face hub (package-url types: huggingface)."""
    model = manifest.model
    if model.repo_id is None or model.revision is None:
        return None
    return f"pkg:huggingface/{quote(model.repo_id)}@{model.revision.lower()}"


def pypi_purl(name: str, version: str) -> str:
    return f"pkg:pypi/{name.lower().replace('_', '-')}@{quote(version, safe='.')}"


def _builder(environment: Mapping[str, str]) -> str:
    name = environment.get("LMI_COMPILE_BUILDER", "") or NOBODY
    if ":" not in name or any(c.isspace() for c in name):
        raise UsageError(
            f"LMI_COMPILE_BUILDER is `{name}`: expected an URI",
            hint="for example the URL of the CI workflow that builds",
        )
    return name


def _command(manifest: Manifest) -> list[str]:
    """What repeats the build; a source without a public name is `MODEL`, and known by its digest."""
    model, limits = manifest.model, manifest.limits
    words = ["lmi-compile", "build", "--model", model.repo_id or "MODEL"]
    words += ["--revision", model.revision] if model.repo_id and model.revision else []
    words += ["--recipe", model.recipe, "--target", manifest.target, "--tp", str(manifest.parallel.tp)]
    words += ["--dtype", manifest.dtype, *_quantised(manifest)]
    return [*words, "--max-positions", str(limits.max_positions), "--max-batch", str(limits.max_batch)]


def _quantised(manifest: Manifest) -> list[str]:
    """A text of one's own is `TEXT`, and known by its digest."""
    found = manifest.quantisation
    if found is None:
        return []
    words = ["--quant", found.scheme] if found.scheme else []
    if found.activations != "float":
        words.append("--per-token" if found.activation_scales == "token" else "--no-per-token")
        words.append("--per-channel" if found.weight_scales == "channel" else "--no-per-channel")
    if found.search == "smooth":
        words += ["--smoothquant-alpha", "auto" if found.alpha is None else f"{found.alpha:g}"]
    words += ["--kv-cache", found.kv_cache] if found.kv_cache else []
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
