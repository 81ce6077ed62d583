"""Checkpoints for the containers of LMI that load one: vLLM, lmi-dist, DeepSpeed. Their serving.properties and checks.

    serving.properties   model.safetensors or shards and index   config.json   tokenizer files   generation_config.json

Sources, read in November 2026: tests/integration/llm/prepare.py of djl-serving at v0.25.0 to v0.36.0 (properties that
select a back end), properties_manager/{vllm_rb,lmi_dist_rb,ds}_properties.py at the same tags.
"""

from __future__ import annotations

import gzip
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, cast, get_args

from compiler.errors import RefusedError, UsageError
from compiler.lmi.backends import TABLES
from compiler.lmi.images import Kind, Release, parse_release, parse_tag
from compiler.lmi.package import LMI_DTYPES
from compiler.lmi.properties import SERVING_PROPERTIES, Properties, Value, known
from compiler.quantization.vendors import VLLM_LOADS

ProfileName = Literal["vllm", "lmi-dist", "deepspeed"]
MODEL_DATA = "model_data.tar.gz"
"""Archive with a serving.properties alone, whose `option.model_id` names the artifact in S3."""

_LAST: Mapping[ProfileName, Release] = {"vllm": (0, 36), "lmi-dist": (0, 32), "deepspeed": (0, 27)}
_FIRST: Release = (0, 25)
_KINDS: Mapping[Kind, tuple[ProfileName, ...]] = {
    "lmi": ("vllm", "lmi-dist"),
    "deepspeed": ("deepspeed", "vllm", "lmi-dist"),
}
"""Back ends in each kind of image, the default one first."""
_ASYNC_SINCE: Release = (0, 33)
_MPI_ENGINE_UNTIL: Release = (0, 30)
_LENGTH: Mapping[ProfileName, str] = {
    "vllm": "option.max_model_len",
    "lmi-dist": "option.max_model_len",
    "deepspeed": "option.max_tokens",
}


@dataclass(frozen=True)
class Profile:
    """Container that loads a checkpoint. `image`: its tag, "" where only the release is known."""

    backend: ProfileName
    release: Release
    image: str = ""

    @property
    def rows(self) -> int:
        """Default of `option.max_rolling_batch_size`."""
        return TABLES[self.backend].default_rows(self.release)

    @property
    def text(self) -> str:
        """`LMI 0.29 with lmi-dist`."""
        return f"LMI {self.release[0]}.{self.release[1]} with {TABLES[self.backend].title}"


@dataclass(frozen=True)
class CheckpointFacts:
    """A checkpoint, and its container. `dtype`: torch's name; `max_batch`: rows; `max_positions`: tokens of a row.
    `options`: further properties by full name.
    """

    profile: Profile
    tp: int
    dtype: str
    max_batch: int
    max_positions: int
    options: Mapping[str, Value] = field(default_factory=dict)


def profiles_of(name: str, image: str) -> tuple[ProfileName, ...]:
    """Back ends that load a checkpoint in `image` ("": in any), the default one first; `name` alone where it is given.
    Raises as `profile_of`.
    """
    if name:
        return (profile_of(name, image).backend,)
    if not image or parse_release(image):
        return get_args(ProfileName)
    return _KINDS.get(parse_tag(image).kind, ())


def profile_of(name: str, image: str) -> Profile:
    """Profile called `name` ("": the default of the image) in `image` ("": the newest release with the back end).

    Raises UsageError (an unknown name, or an image without it), RefusedError (a release without it).
    """
    if name and name not in get_args(ProfileName):
        raise UsageError(
            f"`--profile` is one of {', '.join(get_args(ProfileName))}; found `{name}`", hint="leave it out for vllm"
        )
    release = parse_release(image) if image else None
    kinds: tuple[ProfileName, ...] = get_args(ProfileName)
    tag = ""
    if image and release is None:
        found = parse_tag(image)
        release, kinds, tag = found.release, _KINDS.get(found.kind, ()), image.rpartition("/")[2].rpartition(":")[2]
    backend = cast("ProfileName", name) if name else next(iter(kinds), "vllm")
    if backend not in kinds:
        raise UsageError(
            f"`--image {image}` has no {TABLES[backend].title} that loads checkpoints",
            hint=f"it has {', '.join(kinds)}" if kinds else "name an image of kind `lmi` or `deepspeed`",
        )
    release = release or _LAST[backend]
    if not _FIRST <= release <= _LAST[backend]:
        last = _LAST[backend]
        raise RefusedError(
            f"{TABLES[backend].title} is in LMI 0.25 to {last[0]}.{last[1]}; found {release[0]}.{release[1]}",
            hint="choose another `--image` or `--profile`",
        )
    return Profile(backend, release, tag)


def checkpoint_properties(facts: CheckpointFacts) -> Properties:
    """serving.properties in the folder of the checkpoint, without `option.model_id`: the model is beside it.

    Raises UsageError, RefusedError for `options` that the back end does not read in the release.
    """
    profile = facts.profile
    length = _LENGTH[profile.backend]
    has_length = length in {option.name for option in known(profile.release, profile.backend)}
    made: dict[str, Value] = {
        **_selection(profile),
        "option.tensor_parallel_degree": facts.tp,
        "option.max_rolling_batch_size": facts.max_batch,
        "option.dtype": LMI_DTYPES[facts.dtype],
        **({length: facts.max_positions} if has_length else {}),
        **facts.options,
    }
    return Properties(profile.release, made, profile.backend)


def _selection(profile: Profile) -> dict[str, Value]:
    """Properties that select the back end."""
    match profile.backend:
        case "vllm" if profile.release >= _ASYNC_SINCE:
            return {
                "engine": "Python",
                "option.entryPoint": "djl_python.lmi_vllm.vllm_async_service",
                "option.async_mode": True,
                "option.rolling_batch": "disable",
            }
        case "vllm":
            return {"engine": "Python", "option.rolling_batch": "vllm"}
        case "lmi-dist" if profile.release >= _MPI_ENGINE_UNTIL:
            return {"engine": "Python", "option.mpi_mode": True, "option.rolling_batch": "lmi-dist"}
        case "lmi-dist":
            return {"engine": "MPI", "option.rolling_batch": "lmi-dist"}
        case "deepspeed":
            return {"engine": "DeepSpeed", "option.task": "text-generation", "option.rolling_batch": "deepspeed"}


def model_data(properties: Properties, uri: str) -> bytes:
    """Bytes of MODEL_DATA for the artifact below the S3 prefix `uri`: SageMaker extracts it to /opt/ml/model, and the
    container downloads the rest. Raises UsageError for another kind of URI.
    """
    if not uri.startswith("s3://") or len(uri.rstrip("/")) <= len("s3://"):
        raise UsageError(f"`--artifact-uri` takes s3://bucket/prefix; found `{uri}`", hint="the prefix of `push`")
    whole = Properties(
        properties.release,
        {**properties.entries, "option.model_id": uri.rstrip("/") + "/"},
        properties.backend,
    ).to_bytes()
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        member = tarfile.TarInfo(SERVING_PROPERTIES)
        member.size, member.mode = len(whole), 0o644
        archive.addfile(member, io.BytesIO(whole))
    # Stored, not compressed: equal bytes whatever the version of zlib.
    return gzip.compress(packed.getvalue(), compresslevel=0, mtime=0)


def check_quantized(method: str, profile: Profile) -> None:
    """Raise RefusedError for a checkpoint quantized by `method` (of config.json) that the back end does not load."""
    first = VLLM_LOADS.get(method)
    if profile.backend == "deepspeed" or first is None or profile.release < first:
        since = f"from LMI {first[0]}.{first[1]} on" if first and profile.backend != "deepspeed" else "in no release"
        raise RefusedError(
            f"config.json declares `{method}`; {profile.text} does not load it ({since})",
            hint="choose a newer `--image`, or the checkpoint that is not quantized",
        )
