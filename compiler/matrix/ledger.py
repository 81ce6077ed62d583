"""Ledger of a fleet: who builds which cell, and how each attempt ended. Objects in the store, or in the output folder:

    claims/<16 digits of the cache key>.json    machine that builds it now, its stage; rewritten every BEAT seconds
    cells/<token>.json                          the cell, for the machine that builds it
    arrays/<token>.json                         tokens of the cells of an array job
    results/<token>.json                        row of the attempt
    logs/<token>.log                            end of its log
    ends/<16 digits of the key>.json            row of the cell that was built, with its machine
    proofs/<16 digits of the key>.json          answer of the artifact on the machine that proved it

A claim is made by a conditional write, so that two machines never build one cell at the same time. No clocks are
compared: a claim that has not changed for STALE seconds, by the clock of whoever watches, belongs to a dead machine,
and is replaced on the condition that it still has not changed.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from compiler.errors import ConflictError, NotFoundError, StoreError
from compiler.matrix.cell import Cell, cell_of
from compiler.matrix.state import MatrixRow, row_of
from compiler.registry.layout import FLEET
from compiler.storage.files.digest import canonical_json
from compiler.storage.objects import open_store
from compiler.storage.objects.conditions import Conditions, probe, put_if
from compiler.storage.objects.types import NOTHING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from compiler.storage.files.digest import Digest
    from compiler.storage.objects.types import ObjectStore

ARRAY = "array-"
"""Beginning of the token of an array job."""
BEAT = 10.0
STALE = 60.0
LOG_BYTES = 1 << 20
"""Most bytes of a log that the ledger keeps: its end."""


def ledger_uri(output: Path, store: str | None) -> str:
    """Place of the ledger: in the store, where there is one."""
    return f"{store.rstrip('/')}/{FLEET}" if store else f"{output.absolute()}/.matrix/ledger/"


@dataclass(frozen=True)
class Holder:
    """A claim as it was read. `facts`: stage, done, total and unit of the running step."""

    token: str
    etag: str
    host: str
    facts: dict[str, Any]


@dataclass
class Ledger:
    """Ledger at `uri`. `watched`: ETag of each claim, and since when it has been the same (time.monotonic())."""

    uri: str
    watched: dict[str, tuple[str, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.store: ObjectStore = open_store(self.uri)

    def write_cell(self, cell: Cell) -> None:
        self.store.put(f"cells/{cell.token}.json", canonical_json(cell.to_json()))

    def cell(self, token: str) -> Cell:
        """Raises NotFoundError, StoreError."""
        data, _ = self.store.read(f"cells/{token}.json")
        return cell_of(json.loads(data))

    def write_array(self, tokens: Sequence[str]) -> str:
        """Token of an array job, whose machines know their cells by `member`. Raises StoreError."""
        array = f"{ARRAY}{secrets.token_hex(8)}"
        self.store.put(f"arrays/{array}.json", canonical_json({"tokens": list(tokens)}))
        return array

    def member(self, array: str, index: int) -> str:
        """Token of a cell of an array job. Raises NotFoundError, StoreError."""
        data, _ = self.store.read(f"arrays/{array}.json")
        return str(json.loads(data)["tokens"][index])

    def write_result(self, token: str, row: MatrixRow) -> None:
        self.store.put(f"results/{token}.json", canonical_json(row.to_json()))

    def result(self, token: str) -> MatrixRow | None:
        try:
            data, _ = self.store.read(f"results/{token}.json")
        except NotFoundError:
            return None
        return row_of(json.loads(data))

    def write_end(self, row: MatrixRow, key: Digest) -> None:
        self.store.put(f"ends/{_short(key)}.json", canonical_json(row.to_json()))

    def end(self, key: Digest) -> MatrixRow | None:
        """Row of the cell with `key`, if it was built. Raises StoreError."""
        try:
            data, _ = self.store.read(f"ends/{_short(key)}.json")
        except NotFoundError:
            return None
        return row_of(json.loads(data))

    def write_proof(self, key: Digest, facts: dict[str, Any]) -> None:
        self.store.put(f"proofs/{_short(key)}.json", canonical_json(facts))

    def write_log(self, token: str, data: bytes) -> None:
        self.store.put(f"logs/{token}.log", data[-LOG_BYTES:])

    def log(self, token: str) -> bytes:
        try:
            return self.store.read(f"logs/{token}.log")[0]
        except NotFoundError:
            return b""

    def holder(self, key: Digest) -> Holder | None:
        """Claim of a cell. Raises StoreError."""
        try:
            data, etag = self.store.read(_claim_key(key))
        except NotFoundError:
            self.watched.pop(key, None)
            return None
        found = json.loads(data)
        if self.watched.get(key, ("", 0.0))[0] != etag:
            self.watched[key] = (etag, time.monotonic())
        return Holder(found["token"], etag, found["host"], found["facts"])

    def is_stale(self, key: Digest, stale: float = STALE) -> bool:
        """Whether the claim that `holder` read last has not changed for `stale` seconds."""
        return key in self.watched and time.monotonic() - self.watched[key][1] >= stale

    def release(self, key: Digest, token: str) -> None:
        """Remove the claim of an attempt, if it is still its own. Raises StoreError."""
        found = self.holder(key)
        if found is not None and found.token == token:
            self.store.delete([_claim_key(key)])

    @contextmanager
    def claimed(self, cell: Cell, facts: Callable[[], dict[str, Any]], beat: float = BEAT) -> Iterator[None]:
        """Hold the claim of a cell, and rewrite it every `beat` seconds with what `facts` returns.

        `cell.over`: ETag of the dead machine's claim that is replaced. Raises ConflictError where another machine has
        the claim, StoreError.
        """
        conditions = probe(self.store, "probes/")
        claim = _HeldClaim(self, cell, conditions, facts)
        claim.take(cell.over or NOTHING)
        ended = threading.Event()
        beats = threading.Thread(target=claim.keep, args=(ended, beat), name="claim", daemon=True)
        beats.start()
        try:
            yield
        finally:
            ended.set()
            beats.join()
            with suppress(StoreError):  # it goes stale
                self.release(cell.key, cell.token)


@dataclass
class _HeldClaim:
    ledger: Ledger
    cell: Cell
    conditions: Conditions
    facts: Callable[[], dict[str, Any]]
    etag: str = ""
    beats: int = 0

    def write(self, over: str) -> None:
        self.beats += 1
        facts = {"token": self.cell.token, "host": socket.gethostname(), "pid": os.getpid(), "beat": self.beats}
        data = canonical_json({**facts, "name": self.cell.name, "facts": self.facts()})
        self.etag = put_if(self.ledger.store, self.conditions, _claim_key(self.cell.key), data, over).etag

    def take(self, over: str) -> None:
        """Write on a condition. Raises ConflictError, unless only the answer to our own write was lost."""
        try:
            self.write(over)
        except ConflictError:
            found = self.ledger.holder(self.cell.key)
            if found is None or found.token != self.cell.token:
                raise
            self.etag = found.etag

    def keep(self, ended: threading.Event, beat: float) -> None:
        while not ended.wait(beat):
            try:
                self.take(self.etag)
            except ConflictError:
                return  # it was taken for dead; equal inputs give equal bytes, so that both may end
            except StoreError:
                continue


def _claim_key(key: Digest) -> str:
    return f"claims/{_short(key)}.json"


def _short(key: Digest) -> str:
    return key.removeprefix("sha256:")[:16]
