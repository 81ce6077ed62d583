"""One compiled package in this process: the only file that calls torch's private loader.

    torch has                                    then
    torch._C._aoti.AOTIModelPackageLoader        that: no inductor is imported, a call costs 2 us
    only torch._inductor.aoti_load_package       that: public, imports inductor first (seconds)
    neither                                      IncompatibleError

Loading needs no compiler. Whether the package suits this torch and this CPU is checked before, by
`compiler.artifact.check`: the loaders check nothing.
"""

from __future__ import annotations

import secrets
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.errors import ArtifactError, IncompatibleError
from compiler.storage.files.folder import locked_folder, remove_folder, try_locked_folder

if TYPE_CHECKING:
    from torch import Tensor

_MODEL = "model"
"""The name of the one model in a package: its folder below `data/aotinductor`."""

_PREFIX = "lmi-package-"
"""What temporary folders are called, followed by a random number."""


class Package:
    """A package that `compiler.targets.inductor.build` wrote, loaded and ready to run.

    Raises:
        ArtifactError: the file is missing or no package, or its library cannot be loaded.
        IncompatibleError: this torch has none of the loaders known here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        load = _loader()
        # dlopen wants a file. Once loaded it is not needed any more (a mapping outlives its name), so it goes at once.
        # Torch would keep it until the object is destroyed.
        with _temporary_folder(Path(tempfile.gettempdir())) as folder:
            self._run = load(path, _unpack(path, folder))

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """The outputs for `inputs`, in the order of the spec. Inputs that the program writes to are written in place.

        Raises:
            RuntimeError: torch's, where the program meets sizes that it was not compiled for.
        """
        return self._run(list(inputs))


_Run = Callable[[list["Tensor"]], list["Tensor"]]


@contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    """A folder for as long as the context; one that a killed process leaves is removed by the next that loads."""
    _sweep(parent)
    folder = parent / f"{_PREFIX}{secrets.token_hex(8)}"
    with locked_folder(folder):
        yield folder


@cache
def _sweep(parent: Path) -> None:
    """Remove folders whose lock nobody holds, once a process."""
    for left in parent.glob(f"{_PREFIX}*"):
        with try_locked_folder(left) as ours:
            if ours:
                remove_folder(left)


def _unpack(path: Path, folder: Path) -> Path:
    """The root of the package, unpacked below `folder`."""
    try:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        (root,) = folder.iterdir()
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ArtifactError(
            f"`{path}` should be a compiled package: {error}", hint="pull or build the artifact again"
        ) from error
    return root


def _loader() -> Callable[[Path, Path], _Run]:
    """How to load a package from its file and its unpacked root, with what this torch has."""
    import torch

    native = getattr(getattr(torch._C, "_aoti", None), "AOTIModelPackageLoader", None)
    if native is not None:
        return lambda path, root: _native(native, path, root)
    try:
        from torch._inductor import aoti_load_package
    except ImportError:
        raise IncompatibleError(
            f"this torch ({torch.__version__}) cannot load compiled packages: it has neither "
            "`AOTIModelPackageLoader` nor `aoti_load_package`",
            hint="install the torch that the artifact's manifest names",
        ) from None
    return lambda path, _root: _public(aoti_load_package, path)


def _native(loader: Callable[..., Any], path: Path, root: Path) -> _Run:
    single_threaded, runners, device_index = False, 1, -1
    options = (_MODEL, single_threaded, runners, device_index)
    try:
        # From the folder where this torch takes one; otherwise from the archive, which it unpacks once more.
        try:
            loaded = loader(str(root), *options)
        except RuntimeError:
            loaded = loader(str(path), *options)
    except RuntimeError as error:
        raise _unloadable(path, error) from error
    run: _Run = loaded.boxed_run
    return run


def _public(load: Callable[[str], Any], path: Path) -> _Run:
    try:
        loaded = load(str(path))
    except RuntimeError as error:
        raise _unloadable(path, error) from error

    def run(inputs: list[Tensor]) -> list[Tensor]:
        outputs = loaded(*inputs)
        return list(outputs) if isinstance(outputs, tuple | list) else [outputs]

    return run


def _unloadable(path: Path, error: RuntimeError) -> ArtifactError:
    return ArtifactError(
        f"`{path}` is a package, but torch cannot load it: {error}",
        hint="`lmi-compile verify` tells whether the file is whole. A temporary folder mounted noexec has the same "
        "effect: set TMPDIR to another",
    )
