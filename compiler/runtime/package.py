"""Loader of compiled packages: the only file that calls torch's private loader.

    torch has                                    loader
    torch._C._aoti.AOTIModelPackageLoader        this one: does not import inductor, a call costs 2 us
    only torch._inductor.aoti_load_package       this one: public, imports inductor first (seconds)
    neither                                      IncompatibleError

Loading needs no compiler. The loaders do not check that the package fits this torch and CPU: `compiler.artifact.check`
does, before.
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
"""Name of the model in a package: its folder below `data/aotinductor`."""

_PREFIX = "lmi-package-"
"""Prefix of temporary folders; a random number follows."""


class Package:
    """Loaded package of `compiler.targets.inductor.build`, ready to run.

    Raises:
        ArtifactError: the file is missing or is no package, or its library cannot be loaded.
        IncompatibleError: this torch has none of the loaders known here.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        load = _loader()
        # dlopen needs a file, but only until it is loaded: a mapping outlives its name. So the folder is removed at
        # once; torch would keep it until the object is destroyed.
        with _temporary_folder(Path(tempfile.gettempdir())) as folder:
            self._run = load(path, _unpack(path, folder))

    def run(self, inputs: Sequence[Tensor]) -> list[Tensor]:
        """Outputs for `inputs`, in the order of the spec. The program may write to its inputs in place.

        Raises:
            RuntimeError: an input has a size that the program was not compiled for (raised by torch).
        """
        return self._run(list(inputs))


_Run = Callable[[list["Tensor"]], list["Tensor"]]


@contextmanager
def _temporary_folder(parent: Path) -> Iterator[Path]:
    """Folder that exists during the context. The next process removes the folder of a killed one."""
    _sweep(parent)
    folder = parent / f"{_PREFIX}{secrets.token_hex(8)}"
    with locked_folder(folder):
        yield folder


@cache
def _sweep(parent: Path) -> None:
    """Remove folders whose lock nobody holds, once per process."""
    for left in parent.glob(f"{_PREFIX}*"):
        with try_locked_folder(left) as ours:
            if ours:
                remove_folder(left)


def _unpack(path: Path, folder: Path) -> Path:
    """Unpack a package below `folder`. Returns its root."""
    try:
        with zipfile.ZipFile(path) as archive:
            archive.extractall(folder)
        (root,) = folder.iterdir()
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise ArtifactError(
            f"`{path}` is no compiled package: {error}", hint="pull or build the artifact again"
        ) from error
    return root


def _loader() -> Callable[[Path, Path], _Run]:
    """Function of this torch that loads a package from its file and its unpacked root."""
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
        # A torch that does not load folders gets the archive, and unpacks it again.
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
        hint="`lmi-compile verify` checks the file. A temporary folder that is mounted noexec has the same effect: set "
        "TMPDIR to another",
    )
