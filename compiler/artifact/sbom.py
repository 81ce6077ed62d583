"""sbom.cdx.json: files, model and toolchain of an artifact, as a CycloneDX 1.6 bill of materials.

Format: https://cyclonedx.org/docs/1.6/json/ (ECMA-424). Like provenance.json it is a file of the artifact and depends
only on the manifest and SOURCE_DATE_EPOCH; its serial number is a UUID of its content.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from compiler.artifact.provenance import built_at, model_purl, pypi_purl

if TYPE_CHECKING:
    from collections.abc import Mapping

    from compiler.artifact.manifest import Manifest

MEDIA_TYPE = "application/vnd.cyclonedx+json"

_ON_PYPI = {"torch", "transformers", "tokenizers", "numpy", "safetensors", "tensorrt", "tensorrt_llm", "neuronx-cc",
            "transformers-neuronx", "triton"}  # fmt: skip
"""Names of toolchains that are distributions on PyPI."""


def sbom(manifest: Manifest, version: str, environment: Mapping[str, str]) -> bytes:
    """Make the bill of materials of `manifest`, built by this `version` of lmi-compile.

    Raises UsageError (a malformed SOURCE_DATE_EPOCH).
    """
    files = [
        {
            "type": "file",
            "bom-ref": f"file:{file.path}",
            "name": file.path,
            "mime-type": file.media_type,
            "hashes": [{"alg": "SHA-256", "content": file.digest.removeprefix("sha256:")}],
        }
        for file in manifest.files
    ]
    tools = [_tool(name, number) for name, number in sorted(manifest.toolchain.items())]
    refs = ["model", *(tool["bom-ref"] for tool in tools), *(file["bom-ref"] for file in files)]
    when = built_at(environment)
    bom: dict[str, Any] = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "version": 1,
        "metadata": {
            **({"timestamp": when} if when else {}),
            "tools": {"components": [{"type": "application", "name": "lmi-compile", "version": version}]},
            "component": {"type": "application", "bom-ref": "artifact", "name": manifest.name},
        },
        "components": [_model(manifest), *tools, *files],
        "dependencies": [{"ref": "artifact", "dependsOn": sorted(refs)}, *({"ref": ref} for ref in sorted(refs))],
    }
    text = json.dumps(bom, sort_keys=True)
    bom["serialNumber"] = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, text)}"
    return (json.dumps(bom, indent=2, sort_keys=True, ensure_ascii=True) + "\n").encode()


def _model(manifest: Manifest) -> dict[str, Any]:
    """Component of the source model. The digest of a source covers names and digests of files, not bytes, so it is a
    property and no hash.
    """
    model, purl = manifest.model, model_purl(manifest)
    return {
        "type": "machine-learning-model",
        "bom-ref": "model",
        "name": model.repo_id or model.architecture,
        **({"version": model.revision} if model.revision else {}),
        **({"purl": purl} if purl else {}),
        "modelCard": {"modelParameters": {"modelArchitecture": model.architecture}},
        "properties": [
            {"name": "lmi-compile:recipe", "value": model.recipe},
            {"name": "lmi-compile:source_digest", "value": model.source_digest},
        ],
    }


def _tool(name: str, version: str) -> dict[str, Any]:
    kind = {"type": "library", "purl": pypi_purl(name, version)} if name in _ON_PYPI else {"type": "application"}
    return {**kind, "bom-ref": f"toolchain:{name}", "name": name, "version": version}
