"""Section of a manifest with compiled segments, which the runtime runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.artifact.check import check_files, check_machine
from compiler.artifact.manifest import load_manifest
from compiler.artifact.sections import CacheFormat, InnerPath, Section
from compiler.errors import IncompatibleError
from compiler.runtime.levels import level

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.artifact.check import Evidence
    from compiler.artifact.manifest import Manifest


class Segments(Section, extra="forbid"):
    """Compiled segments. `weights`: file of each rank. `layers`: segments of each layer, in the order of computation.

    `packages`: "<segment>.<phase>" to path. `products`: of linear layers (`compiler.decoder.products`).
    `cache`: format of keys and values, "" for the dtype of the model (`compiler.decoder.attention`). `head`: product of
    the head.
    """

    weights: tuple[InnerPath, ...]
    layers: tuple[tuple[str, ...], ...]
    packages: dict[str, InnerPath]
    products: str | tuple[tuple[str, str], ...] = "float"
    cache: CacheFormat = ""
    head: str = "float"

    @property
    def rank_files(self) -> tuple[str, ...]:
        return self.weights

    @property
    def paths(self) -> tuple[str, ...]:
        return (*self.weights, *self.packages.values())

    def facts(self) -> list[tuple[str, str]]:
        kinds = sorted({" + ".join(pair) for pair in self.layers})
        return [("layers", f"{len(self.layers)}: {', '.join(kinds)}")]

    def check(self, tp: int) -> None:
        """Check that every rank has weights and every segment a package. Raises ValueError."""
        if len(self.weights) != tp:
            raise ValueError(f"expected weights for {tp} ranks, found {len(self.weights)}")
        used = {segment for layer in self.layers for segment in layer}
        built = {name.rpartition(".")[0] for name in self.packages}
        if not used <= built:
            raise ValueError(f"layers use segments without a package: {', '.join(sorted(used - built))}")


def runnable(manifest: Manifest) -> Segments:
    """Segments of an artifact. Raises IncompatibleError where another program serves it."""
    if isinstance(manifest.section, Segments):
        return manifest.section
    raise served_elsewhere(manifest.name)


def served_elsewhere(name: str) -> IncompatibleError:
    """Error for an artifact that only a serving container runs."""
    return IncompatibleError(
        f"`{name}` runs in a serving container; this runtime runs compiled segments",
        hint="deploy it with the LMI image that `lmi-compile inspect` names; to run the model on this machine, "
        "build it with `--target inductor`",
    )


def check_artifact(folder: Path, *, by: Evidence = "size") -> Manifest:
    """Check that this machine can run an artifact and that its files are complete (check_files); return its manifest.

    Raises ArtifactError, IncompatibleError, and UsageError for a level of kernels that this CPU does not run.
    """
    manifest = load_manifest(folder)
    runnable(manifest)
    check_machine(manifest)
    if manifest.device.kind == "cpu":
        level()
    check_files(manifest, folder, by=by)
    return manifest
