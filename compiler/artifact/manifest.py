"""manifest.json: source, toolchain, device, limits and files of an artifact.

All artifacts share its fields, except for the `section` of their target (sections.py).

    ARTIFACT/manifest.json
             tokenizer/                        tokenizer, generation config and config.json of the source
             reference.safetensors             token ids and the source model's logits for them
             numerics.html, numerics.json      report of the numerics gate, for quantized artifacts
             provenance.json, sbom.cdx.json    provenance and bill of materials (provenance.py, sbom.py)
             manifest.json.sig                 signatures of the manifest (sign.py); not listed in it

    inductor weights/rank{r}.safetensors       one file a rank
             packages/<segment>.<phase>.pt2    compiled segments, shared by all ranks and by layers of one kind

    trtllm   checkpoint/                       before the engines are built: config.json and rank{r}.safetensors
             build-engines.sh                  builds them
             ...                               afterwards: the tree that the container expects (compiler/lmi)

    vllm     model-rank-{r}-part-0.safetensors shards, or the files of the checkpoint; config.json and tokenizer* beside
             bake.sh                           compiles the cache, before there is one
             cache.tar.gz, bake.json           compiled cache and its proof; lmi_boot/ restores it where it is served

    neuron   weights/tp{r}_sharded_checkpoint.safetensors, shards.json
             graphs/                           HLO of each bucket, their inputs and outputs, the proof; plan.json
             compile-neuron.sh                 compiles them, or runs the vendor's library, before either has happened
             cache/neuronxcc-V/MODULE_x+y/     executables; or, at the root, what the vendor's library made

Only provenance.json can depend on time, place or author of a build, and does so on request: repeated builds give equal
bytes. The digest of an artifact is the sha256 of its manifest file.
"""

from __future__ import annotations

import json
import operator
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    PrivateAttr,
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_serializer,
    model_validator,
)

from compiler.artifact.quantization import FIGURES, REPORT, Quantisation
from compiler.artifact.schema1 import upgraded
from compiler.artifact.sections import Count, InnerPath, Section, Sha256, Size, Strict, section_of
from compiler.errors import ArtifactError
from compiler.model.config import ModelConfig
from compiler.storage.files.digest import Descriptor, Digest, canonical_json, digest_bytes

MANIFEST = "manifest.json"
SCHEMA_VERSION = 2
PROVENANCE, SBOM = "provenance.json", "sbom.cdx.json"


class SourceModel(Strict):
    """Source model. `repo_id`, `revision` (a commit): None unless from a model hub. `config`: ModelConfig's JSON.
    `text_only`: the text part of a multimodal model. `notes`: what is left out of the source, and what was
    decided where it contradicts itself. The last two are written only where they are set.
    """

    source: Literal["hub", "local", "s3"]
    repo_id: str | None
    revision: str | None
    recipe: str
    architecture: str
    config: dict[str, Any]
    source_digest: Sha256
    text_only: Annotated[bool, Field(exclude_if=operator.not_)] = False
    notes: Annotated[tuple[str, ...], Field(exclude_if=operator.not_)] = ()


class Device(Strict):
    """Device that the artifact runs on. `kind`: "cpu", "cuda", or the target's own. `isa`: instruction set level of CPU
    packages, and `features` beyond it, in Linux's spelling (`--march native`). `capability`: CUDA's compute capability
    ("9.0"); None before anything is compiled.
    """

    kind: Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]*$")]
    isa: str | None = None
    features: tuple[str, ...] = ()
    capability: str | None = None


class Parallel(Strict):
    """Parallelism. `tp`: tensor-parallel ranks; `pp`: pipeline stages of tp ranks each; `moe_ep`: expert-parallel
    groups of these ranks, each with whole experts; `parallel_embedding`: the embedding is split over the vocabulary.
    """

    tp: Size
    pp: Size = 1
    moe_ep: Size = 1
    parallel_embedding: bool = False


class ArtifactLimits(Strict):
    """Limits. `max_positions`: tokens of one row, prompt and answer; `max_batch`: rows; `prefill_chunk`: tokens of a
    step.
    """

    max_positions: Size
    max_batch: Size
    prefill_chunk: Size


class ArtifactFile(Strict):
    """File of an artifact: `size` in bytes, `digest` and `crc` (storage/files/crc.py; None: not computed) of its bytes.

    `codec`: encoding in a store, reserved for compression.
    """

    path: InnerPath
    media_type: str
    digest: Sha256
    size: Count
    crc: Annotated[str, Field(pattern=r"^crc32:[0-9a-f]{8}$")] | None = None
    codec: Literal["none"] = "none"

    @field_validator("codec", mode="before")
    @classmethod
    def _as_they_are(cls, codec: object) -> object:
        if codec != "none":
            raise ValueError(f"expected codec `none`, found {codec!r}: upgrade lmi-compile")
        return codec


Lengths = Annotated[tuple[Size, ...], Field(strict=False)]
"""Token counts; a list as JSON and the stage cache have it, too."""


class Coverage(Strict):
    """Reach of a proof. `rows`: tokens of each row; `window`, `boundary`: smallest sliding window of the model, and the
    context length for which its rotary positions are scaled; None: it has none.

    `lowered_rows`: tokens of rows that ran with the window at `lowered_window` and the boundary at `lowered_boundary`
    positions; None: not lowered. They run on the rank files: limits are constants of what is compiled from these.
    """

    rows: Lengths
    window: Size | None = None
    boundary: Size | None = None
    lowered_rows: Lengths = ()
    lowered_window: Size | None = None
    lowered_boundary: Size | None = None


class Numerics(Strict):
    """Distance of the artifact's logits from the reference's, over `tokens` positions.

    Definitions: numerics/compare.py. `reference_file` None: the checkpoint was measured; the artifact alone cannot
    repeat it. `coverage` None, and then absent: written by a version that ran one row of 48 tokens.
    """

    reference: str
    reference_file: InnerPath | None
    tokens: Size
    max_abs: float
    mean_abs: float
    cosine: float
    top1_agreement: float
    kl: float
    kl_median: float
    thresholds: dict[str, float]
    coverage: Coverage | None = None

    @model_serializer(mode="wrap")
    def _without_absent(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Manifests of older versions keep their bytes."""
        found: dict[str, Any] = handler(self)
        return found if self.coverage is not None else {k: v for k, v in found.items() if k != "coverage"}


class Manifest(Strict):
    """Manifest of an artifact. `section`: of its target's class. `writer`: version of lmi-compile that wrote the
    manifest, "" in schema version 1. `quantisation` None: nothing is quantized.
    """

    schema_version: Literal[2] = 2
    writer: str = ""
    name: Annotated[str, Field(min_length=1)]
    model: SourceModel
    target: str
    toolchain: dict[str, str]
    device: Device
    parallel: Parallel
    dtype: Literal["bfloat16", "float16", "float32"]
    limits: ArtifactLimits
    quantisation: Quantisation | None = None
    section: SerializeAsAny[Section]
    files: tuple[ArtifactFile, ...]
    plan_digest: Sha256
    numerics: Numerics | None = None
    stand_in: bool = False
    """Built by the stand-in toolchain of the tests."""

    _loaded: bytes | None = PrivateAttr(None)
    """Bytes of the loaded file, where this version would write others."""

    @field_validator("section", mode="before")
    @classmethod
    def _of_the_target(cls, section: object, info: ValidationInfo) -> object:
        return section_of(info.data.get("target", ""), section) if isinstance(section, dict) else section

    @model_validator(mode="after")
    def _one_whole(self) -> Self:
        paths = [file.path for file in self.files]
        if len(set(paths)) != len(paths):
            raise ValueError("expected one file per path, found duplicates")
        if MANIFEST in paths:
            raise ValueError(f"{MANIFEST} cannot list itself")
        needed = set(self.section.paths)
        if self.numerics is not None and self.numerics.reference_file is not None:
            needed.add(self.numerics.reference_file)
        if self.quantisation is not None:
            needed.add(self.quantisation.gate.report)
        if lost := sorted(needed - set(paths)):
            raise ValueError(f"not among `files`: {', '.join(lost)}")
        self.section.check(self.parallel.tp)
        return self

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """Pydantic's `model_copy`; changed copies lose the loaded bytes."""
        copy = super().model_copy(update=update, deep=deep)
        if update:
            copy._loaded = None
        return copy

    @property
    def config(self) -> ModelConfig:
        """Configuration of the model. Raises ArtifactError for fields that this version does not know."""
        return ModelConfig.from_json(self.model.config, self.writer)

    @property
    def descriptors(self) -> tuple[Descriptor, ...]:
        return tuple(Descriptor(f.path, f.media_type, f.digest, f.size, f.crc) for f in self.files)

    @property
    def substance(self) -> Manifest:
        """Manifest without measurements (`numerics`, the gate's verdict and report) and without the statements that
        contain them: equal for equal builds, whatever was measured or accepted.
        """
        statements = {REPORT, FIGURES, PROVENANCE, SBOM}
        quantisation = self.quantisation
        return self.model_copy(
            update={
                "writer": "",
                "numerics": None,
                "quantisation": quantisation and quantisation.model_copy(update={"gate": None}),
                "files": tuple(file for file in self.files if file.path not in statements),
            }
        )

    def to_bytes(self) -> bytes:
        """Bytes of manifest.json: sorted keys, two spaces, canonical numbers; for an earlier schema version, the bytes
        of the loaded file.
        """
        if self._loaded is not None:
            return self._loaded
        data = json.loads(canonical_json(self.model_dump(mode="json")))
        return (json.dumps(data, indent=2, sort_keys=True, ensure_ascii=True, allow_nan=False) + "\n").encode()

    @property
    def digest(self) -> Digest:
        return digest_bytes(self.to_bytes())


def load_manifest(folder: Path) -> Manifest:
    """Load the manifest of an artifact. Raises ArtifactError where it is missing or invalid."""
    path = folder / MANIFEST
    try:
        data = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        raise ArtifactError(
            f"{folder} is not an artifact: expected a folder with {MANIFEST}",
            hint="pass the folder that `lmi-compile build --output` made",
        ) from None
    return parse_manifest(data, str(path))


def parse_manifest(data: bytes, name: str = MANIFEST) -> Manifest:
    """Parse a manifest; `name`: for errors. Raises ArtifactError that lists up to 20 problems."""
    version = _version_of(data)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise ArtifactError(
            f"{name}: schema version {version}; this lmi-compile reads up to {SCHEMA_VERSION}",
            hint="upgrade lmi-compile, or build the artifact again with this version",
        )
    try:
        if version != 1:
            return Manifest.model_validate_json(data)
        found = Manifest.model_validate_json(upgraded(data))
        found._loaded = data
    except ValidationError as error:
        lines = [
            f"  {'.'.join(str(part) for part in problem['loc']) or 'manifest'}: {problem['msg']}"
            for problem in error.errors(include_url=False, include_context=False)
        ]
        raise ArtifactError(
            "\n".join([f"{name} is not a manifest of an artifact:", *lines[:20]]),
            hint="copy the artifact again from where it was built, or build it again",
        ) from None
    return found


def json_schema() -> bytes:
    """JSON schema of manifest.json, for other languages; tests/snapshots has the committed copy."""
    return (json.dumps(Manifest.model_json_schema(), indent=2, sort_keys=True) + "\n").encode()


def _version_of(data: bytes) -> object:
    try:
        parsed = json.loads(data)
    except ValueError:
        return None
    return parsed.get("schema_version") if isinstance(parsed, dict) else None


if __name__ == "__main__":
    print(json_schema().decode(), end="")
