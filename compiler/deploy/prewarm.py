"""Preparation of a machine before it gets traffic: the artifact is fetched, verified and answers one prompt.

    preflight    signature, machine, memory and disk, checked against the manifest before weights are transferred
    fetch        pull from a store (registry/pull.py), or copy a folder; skipped if the artifact is already here
    verify       several threads read every byte: sizes, CRCs (sha256 if a signature is required), layout. This fills
                 the page cache, from which weights are mapped at start.
    answer       a new process without a compiler on its PATH loads the artifact and answers a prompt. Its caches, empty
                 before, must be empty afterwards: nothing is compiled at start.

Can be repeated. If two processes prewarm one folder, the second waits for the first and then finds everything done.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.artifact.assemble import assemble, check_output
from compiler.artifact.manifest import MANIFEST, load_manifest
from compiler.artifact.parts import Part
from compiler.artifact.sign import SIGNATURE, check_signed
from compiler.deploy.preflight import preflight, refuse
from compiler.errors import ArtifactError, RankError, UnprovenError, UsageError
from compiler.numerics.intact import intact
from compiler.registry.pull import pull
from compiler.registry.resolve import resolve_signed
from compiler.report import Report, Silent, amount, progress_in
from compiler.storage.cache.stages import cache_folder
from compiler.storage.files.digest import DigestMemo
from compiler.storage.files.folder import locked_folder, place
from compiler.targets import load
from compiler.targets.runners import runner_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from compiler.artifact.manifest import Manifest
    from compiler.targets.runners import Runner

REPORT = "prewarm.json"
PROMPT = "Hello"
_NEW_TOKENS = 8
_TIMEOUT = 3600.0
"""Seconds for loading and one answer: SageMaker's limit for the start of a container."""


@dataclass(frozen=True)
class PrewarmPhase:
    """Duration of one phase, and the bytes that it fetched or read."""

    name: str
    seconds: float
    nbytes: int = 0


@dataclass(frozen=True)
class Prewarmed:
    """Report of a prewarm. `answer`: JSON of the runner's `once`; None if nothing runs it here; `unproven`: why."""

    name: str
    digest: str
    source: str
    folder: Path
    phases: tuple[PrewarmPhase, ...]
    answer: dict[str, Any] | None
    unproven: str | None

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"folder": str(self.folder)}


def prewarm(
    source: str,
    folder: Path,
    report: Report | None = None,
    *,
    key: Path | None = None,
    prompt: str = PROMPT,
    file: Path | None = None,
) -> Prewarmed:
    """Put the artifact `source` (a folder, or STORE/NAME@TAG) into `folder`, verify it and let it answer `prompt`.

    `key`: PEM file of public keys, one of which must have signed it. `file`: path of the report [default: prewarm.json
    in `folder`], written before this returns or raises UnprovenError.

    Raises UnprovenError (all checks pass, but nothing here can run it), IncompatibleError, SignatureError,
    ArtifactError, RankError (it does not answer), ResourceError, StoreError, UsageError.
    """
    report = report or Silent()
    output = Path(os.path.abspath(folder))  # noqa: PTH100  # Path.resolve would follow a link
    # held during verify too, so that nobody replaces the files meanwhile
    with locked_folder(
        _writable_beside(output) / f".{output.name}.prewarm",
        lambda: report.warn(f"another process is prewarming {output}; waiting"),
    ):
        done = _prewarm(source, output, report, key, prompt)
    _write(file or output / REPORT, done)
    if done.unproven is not None:
        raise UnprovenError(
            f"`{done.name}` is intact and suits this machine, but it was not run: {done.unproven}",
            hint="send the serving container a first request; `--allow-unproven` accepts an artifact that was not run",
        )
    return done


def _prewarm(source: str, output: Path, report: Report, key: Path | None, prompt: str) -> Prewarmed:
    phases: list[PrewarmPhase] = []
    began = time.monotonic()
    report.begin("preflight")
    manifest, fetch = _found(source, output, report, key)
    refuse(manifest.name, preflight(manifest, output))
    phases.append(PrewarmPhase("preflight", time.monotonic() - began))
    report.end(f"{manifest.name} suits this machine")

    began = time.monotonic()
    fetched = fetch()
    phases.append(PrewarmPhase("fetch", time.monotonic() - began, fetched))

    began = time.monotonic()
    report.begin("verify")
    intact(
        output,
        by="crc" if key is None else "sha256",
        progress=progress_in(report, "bytes"),
    )
    size = sum(each.size for each in manifest.files)
    phases.append(PrewarmPhase("verify", time.monotonic() - began, size))
    report.end(f"{len(manifest.files)} files, {amount(size, 'bytes')}, now in memory")

    runner = runner_of(manifest)
    unproven = _unproven(manifest)
    answer = None
    if unproven is None and runner is not None:
        began = time.monotonic()
        report.begin("answer")
        has_text = (output / "tokenizer/tokenizer.json").is_file()
        answer = answer_without_compiler(output, prompt if has_text else "", runner)
        phases.append(PrewarmPhase("answer", time.monotonic() - began))
        report.end(f"loaded in {answer['seconds_to_load']:.2f} s, first token after "
                   f"{answer['seconds_to_first_token']:.3f} s, finish_reason {answer['finish_reason']}")  # fmt: skip
    rounded = tuple(PrewarmPhase(phase.name, round(phase.seconds, 4), phase.nbytes) for phase in phases)
    return Prewarmed(manifest.name, manifest.digest, source, output, rounded, answer, unproven)


def _found(source: str, output: Path, report: Report, key: Path | None) -> tuple[Manifest, Callable[[], int]]:
    """The manifest, its signature checked, and a function that fetches the files and returns the bytes fetched."""
    if (Path(source) / MANIFEST).is_file():
        if key is not None:
            check_signed(Path(source), key)
        return load_manifest(Path(source)), partial(_copy, Path(source), output, report)
    found = resolve_signed(source, key)
    return found.manifest, lambda: pull(found, output, report).fetched


def answer_without_compiler(artifact: Path, prompt: str, runner: Runner) -> dict[str, Any]:
    """JSON of the runner's `once`, run without a compiler.

    Raises RankError if it does not answer, ArtifactError if it compiled something nevertheless.
    """
    with tempfile.TemporaryDirectory(prefix="lmi-prewarm-") as scratch:
        caches = {name: str(Path(scratch) / name.lower()) for name in runner.caches}
        no_programs = Path(scratch) / "no-programs"
        no_programs.mkdir()
        environment = {**os.environ, **caches, "PATH": str(no_programs), "CXX": "", "CC": ""}
        words = runner.once(artifact, prompt, _NEW_TOKENS)
        try:
            ran = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=_TIMEOUT, check=False)
        except subprocess.TimeoutExpired:
            raise RankError(
                f"{artifact} did not answer within {_TIMEOUT:.0f} s", hint="try `lmi-compile generate -v`"
            ) from None
        if ran.returncode != 0:
            lines = ran.stderr.strip().splitlines()
            raise RankError(
                f"{artifact} does not answer: {lines[-1] if lines else f'exit code {ran.returncode}'}",
                hint="`lmi-compile generate -v` shows the whole log; `lmi-compile verify` checks the logits",
            )
        compiled = [path for name in caches.values() for path in Path(name).rglob("*") if path.is_file()]
    if compiled:
        raise ArtifactError(
            f"{artifact} compiled {len(compiled)} file(s) at start, such as {compiled[0].name}; expected none",
            hint="build it again with the torch of this machine",
        )
    found: dict[str, Any] = json.loads(ran.stdout)
    return found


def _unproven(manifest: Manifest) -> str | None:
    """Reason why this machine cannot run an artifact that suits it; None if it can."""
    if manifest.stand_in:
        return "it was made by a stand-in toolchain, so there is nothing to run"
    return load(manifest.target).runtime.unproven(manifest) or None


def _copy(source: Path, output: Path, report: Report) -> int:
    """Copy a folder and rename it into place; returns the bytes copied. Raises UsageError, DiskFullError, OSError."""
    if source.resolve() == output.resolve():
        return 0
    manifest = load_manifest(source)
    beside = [path for path in (MANIFEST, SIGNATURE) if (source / path).is_file()]
    if all(_same(source / path, output / path) for path in beside) and all(
        _has_size(output / file.path, file.size) for file in manifest.files
    ):
        return 0
    check_output(output, force=True)
    parts = [
        Part(descriptor, source / descriptor.path, _is_executable(source / descriptor.path))
        for descriptor in manifest.descriptors
    ]
    part = output.with_name(f".{output.name}.part")
    with locked_folder(part):
        report.begin("copy")
        memo = DigestMemo(cache_folder() / "digests.jsonl")
        assemble(part, parts, memo, progress_in(report, "bytes"))
        for path in beside:
            (part / path).write_bytes((source / path).read_bytes())
        place(part, output)
        size = sum(file.size for file in manifest.files)
        report.end(f"{len(parts)} files, {amount(size, 'bytes')}")
    return size


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and one.read_bytes() == other.read_bytes()


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size


def _is_executable(path: Path) -> bool:
    return os.access(path, os.X_OK)


def _writable_beside(output: Path) -> Path:
    """Folder for the lock: the parent of `output`, or the temporary folder if that is read-only."""
    existing = next(place for place in output.parents if place.exists())
    return output.parent if os.access(existing, os.W_OK) else Path(tempfile.gettempdir())


def _write(file: Path, done: Prewarmed) -> None:
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        part.write_text(json.dumps(done.to_json(), indent=2, sort_keys=True) + "\n")
        part.replace(file)
    except OSError as error:
        raise UsageError(
            f"cannot write the report {file}: {error.strerror}", hint="name a writable file with `--report`"
        ) from None
