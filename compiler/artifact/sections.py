"""The section of manifest.json that says what a toolchain made: one kind of section for each kind of result."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _inside(path: str) -> str:
    """A path of the artifact: relative, `/` between parts, inside the folder, in one spelling."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or str(pure) != path or "\\" in path or path == ".":
        raise ValueError(f"expected a relative path inside the artifact, found {path!r}")
    return path


InnerPath = Annotated[str, Field(min_length=1), AfterValidator(_inside)]
Sha256 = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]
Size = Annotated[int, Field(ge=1)]


class Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)


class Segments(Strict):
    """Compiled segments that the runtime of this project runs. `weights`: the file of each rank. `layers`: the
    segments of each layer, in the order of computation. `packages`: "<segment>.<phase>" to path. `products`: how linear
    layers are computed (`compiler.decoder.quantized`). `cache`: how keys and values are kept, "" in the dtype of the
    model (`compiler.decoder.attention`).
    """

    weights: tuple[InnerPath, ...]
    layers: tuple[tuple[str, ...], ...]
    packages: dict[str, InnerPath]
    products: str = "float"
    cache: Literal["", "int8", "fp8"] = ""

    @property
    def paths(self) -> tuple[str, ...]:
        """Files that have to be in the artifact."""
        return (*self.weights, *self.packages.values())


class BuildLimits(Strict):
    """What engines are built for, in TensorRT-LLM's words; lengths in tokens."""

    max_batch_size: Size
    max_input_len: Size
    max_seq_len: Size
    max_num_tokens: Size


class Engines(Strict):
    """A TensorRT-LLM checkpoint, or the engines that were built from it.

    `version`: of TensorRT-LLM. `image`: tag of the LMI image that it is for; `container`: how that image wants its
    files (None: no image, plain engines). `quant_algo`: TensorRT-LLM's name of the scheme, "" for none. `checkpoint`:
    digests of the files that the engines are built from, by name; `checkpoint_files`: where these are in the artifact,
    none once there are engines. `files`: the engine of each rank; none before they are built. `argv`: the command line
    that builds them, run in the artifact's folder.
    """

    version: Annotated[str, Field(min_length=1)]
    image: str | None
    container: Literal["triton", "engine"] | None
    quant_algo: str
    checkpoint: dict[str, Sha256]
    checkpoint_files: tuple[InnerPath, ...]
    files: tuple[InnerPath, ...]
    limits: BuildLimits
    argv: tuple[str, ...]

    @property
    def paths(self) -> tuple[str, ...]:
        """Files that have to be in the artifact."""
        return (*self.checkpoint_files, *self.files)
