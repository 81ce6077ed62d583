"""One compiled package in this process: the only file that calls torch's private loader.

Loading needs no compiler. What the package needs of torch and of the CPU is checked before, by
`compiler.artifact.check`: the loader itself checks nothing.
"""

from __future__ import annotations

import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from compiler.errors import ArtifactError, IncompatibleError

if TYPE_CHECKING:
    from torch import Tensor

MODEL = "model"
"""The name of the one model in a package: its folder below `data/aotinductor`."""


class Package:
    """A package that `compiler.targets.inductor.build` wrote, loaded.

    Raises:
        ArtifactError: the file is no package, or its library cannot be loaded.
        IncompatibleError: this torch has neither of the loaders known here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # dlopen wants a file of its own. Once it is loaded the file is not needed any more (a mapping outlives the name),
        # so that nothing is left behind however this process ends.
        with tempfile.TemporaryDirectory(prefix="lmi-package-") as folder:
            self.run: Callable[[list[Tensor]], list[Tensor]] = self._load(Path(folder))

    def _load(self, folder: Path) -> Callable[[list[Tensor]], list[Tensor]]:
        """`run(inputs) -> outputs`. Takes the inputs in the order of the spec; the list is emptied of nothing."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                archive.extractall(folder)
        except (OSError, zipfile.BadZipFile) as error:
            raise ArtifactError(
                f"`{self.path}` is no compiled package: {error}", hint="pull or build the artifact again"
            ) from error
        (root,) = folder.iterdir()
        from torch._C._aoti import AOTIModelPackageLoader

        return AOTIModelPackageLoader(str(root), MODEL, False, 1, -1).boxed_run
