"""Readers during publishing: each sees one complete artifact. A small version of benchmarks/readers.py."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from benchmarks.testbed.artifacts import content, write_random
from compiler.registry.layout import LAYOUTS, Layout
from compiler.registry.pull import pull
from compiler.registry.push import push
from compiler.registry.refs import promote


@pytest.mark.parametrize("layout", LAYOUTS)
def test_readers_see_one_artifact_whole(tmp_path: Path, local_store: str, layout: Layout) -> None:
    rounds, writers = 10, 2
    sources = {(w, n): write_random(tmp_path / f"{w}-{n}", 100 * w + n) for w in range(writers) for n in range(rounds)}
    known = [content(folder) for folder in sources.values()]
    promote(push(sources[0, 0], local_store, layout=layout).address)
    done, problems = threading.Event(), list[BaseException]()

    def publish(writer: int) -> None:
        for n in range(rounds):
            promote(push(sources[writer, n], local_store, layout=layout).address)

    def read(reader: int) -> None:
        out, pulls = tmp_path / f"out{reader}", 0
        while not done.is_set() or pulls == 0:
            pull(f"{local_store}tiny", out)
            assert content(out) in known
            pulls += 1

    def guarded(work: object, number: int) -> None:
        try:
            work(number)  # type: ignore[operator]  # one of the two above
        except BaseException as error:  # noqa: BLE001  # told by the main thread
            problems.append(error)

    writing = [threading.Thread(target=guarded, args=(publish, w)) for w in range(writers)]
    reading = [threading.Thread(target=guarded, args=(read, r)) for r in range(3)]
    for thread in [*writing, *reading]:
        thread.start()
    for thread in writing:
        thread.join()
    done.set()
    for thread in reading:
        thread.join()
    assert problems == []
