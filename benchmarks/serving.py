"""The server under load: time to first token beside a long answer, streams that stay whole, throughput, memory.

    python -m benchmarks.serving ARTIFACT [--seconds 60] [--requests 10000] [--json]

Starts `lmi-compile serve` on the artifact and sends from another process, over real sockets:

    first token     of a 4-token request alone, and while a long answer runs (medians; ratio)
    32 clients      stream for `--seconds`; each answer must have the tokens that its request has alone
    throughput      tokens a second of 1 client and of 16
    memory          RSS of the server before and after `--requests`, half of them malformed; three tenths as many before
                    them bring its buffers to their size

Exit code 1 if a token was lost, mixed or reordered, or a request got no answer.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Iterator

PROMPTS = [
    f"{word} {'and then some more of it ' * (number % 5)}"
    for number, word in enumerate(["one", "two", "six", "ten", "a", "b"])
]
MALFORMED = [
    b'{"inputs": "\\ud800"}',
    b"[" * 5000,
    b'{"inputs": 3}',
    b'{"inputs": "a", "parameters": {"temperature": 1e999, "do_sample": true}}',
    b'{"inputs": "' + b"a" * 200_000 + b'"}',
]


@dataclass
class Answer:
    """Answer to one request. `first`, `seconds`: from sending it; `gaps`: seconds between its lines."""

    status: int
    tokens: list[int]
    first: float
    seconds: float
    gaps: list[float]


class Client:
    """One keep-alive connection."""

    def __init__(self, url: str) -> None:
        self._place = urlsplit(url)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, prompt: str, tokens: int) -> Answer:
        parameters = {"max_new_tokens": tokens, "details": True, "ignore_eos_token": True}
        return await self.send(json.dumps({"inputs": prompt, "parameters": parameters, "stream": True}).encode())

    async def send(self, body: bytes) -> Answer:
        begun = time.perf_counter()
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._place.hostname, self._place.port, limit=1 << 20)
        reader, writer = self._streams
        writer.write(b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        status, headers = await _head(reader)
        times, ids = [], []
        async for part in _parts(reader, headers):
            times.append(time.perf_counter())
            if status == 200:
                ids += [json.loads(line)["token"]["id"] for line in part.splitlines()]
        if headers.get("connection") == "close":
            self.close()
        first = (times[0] if times else time.perf_counter()) - begun
        gaps = [b - a for a, b in itertools.pairwise(times)]
        return Answer(status, ids, first, time.perf_counter() - begun, gaps)

    def close(self) -> None:
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None


async def _head(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    status = int((await reader.readline()).split()[1])
    headers: dict[str, str] = {}
    while line := (await reader.readline()).strip():
        name, _, value = line.decode().partition(":")
        headers[name.strip().lower()] = value.strip().lower()
    return status, headers


async def _parts(reader: asyncio.StreamReader, headers: dict[str, str]) -> AsyncIterator[bytes]:
    if "content-length" in headers:
        yield await reader.readexactly(int(headers["content-length"]))
        return
    while size := int(await reader.readline(), 16):
        yield await reader.readexactly(size)
        await reader.readline()
    await reader.readline()


@contextmanager
def serving(artifact: Path) -> Iterator[tuple[str, int]]:
    """Address and process id of a server."""
    command = [sys.executable, "-m", "compiler", "serve", str(artifact), "--port", "0", "--queue", "10000"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if " on http://" not in line:
            raise SystemExit(f"{artifact}: the server did not start")
        try:
            yield line.split()[-1], process.pid
        finally:
            process.terminate()


def resident(process: int) -> int:
    """Resident bytes of a process and its descendants."""
    children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    return pages * 4096 + sum(resident(int(child)) for child in children)


async def first_token(url: str, long: int, count: int = 15) -> dict[str, float]:
    """Median seconds to the first token of a short request, alone and beside an answer of `long` tokens."""

    async def median() -> float:
        found = []
        for _ in range(count):
            client = Client(url)
            found.append((await client.ask("x", 4)).first)
            client.close()
        return statistics.median(found)

    await median()
    alone = await median()
    other = Client(url)
    running = asyncio.create_task(_repeat(other, long))
    await asyncio.sleep(0.2)
    beside = await median()
    running.cancel()
    return {"alone": alone, "beside": beside, "ratio": beside / alone}


async def _repeat(client: Client, tokens: int) -> None:
    while True:
        await client.ask("y", tokens)


async def streams(url: str, seconds: float, clients: int = 32) -> dict[str, float]:
    """Answers of concurrent clients against those of each request alone."""
    lengths = [5, 17, 40, 64]
    asked = [(prompt, length) for prompt in PROMPTS for length in lengths]
    alone = {one: (await Client(url).ask(*one)).tokens for one in asked}
    until, wrong, answers = time.perf_counter() + seconds, 0, list[Answer]()

    async def run(number: int) -> None:
        nonlocal wrong
        client, at = Client(url), number
        while time.perf_counter() < until:
            one = asked[at % len(asked)]
            answer = await client.ask(*one)
            answers.append(answer)
            wrong += answer.status != 200 or answer.tokens != alone[one]
            at += 7

    await asyncio.gather(*map(run, range(clients)))
    firsts = sorted(answer.first for answer in answers)
    gaps = sorted(gap for answer in answers for gap in answer.gaps)
    tokens = sum(len(answer.tokens) for answer in answers)
    return {
        "answers": len(answers),
        "tokens": tokens,
        "wrong": wrong,
        "tokens_per_second": tokens / seconds,
        "first_p50": firsts[len(firsts) // 2],
        "first_p99": firsts[int(len(firsts) * 0.99)],
        "gap_p50": gaps[len(gaps) // 2],
        "gap_p99": gaps[int(len(gaps) * 0.99)],
    }


async def rate(url: str, clients: int, seconds: float) -> float:
    """Tokens a second of clients that send one request after the other."""
    until, tokens = time.perf_counter() + seconds, 0

    async def run(number: int) -> None:
        nonlocal tokens
        client = Client(url)
        while time.perf_counter() < until:
            answer = await client.ask(PROMPTS[number % len(PROMPTS)], 40)
            tokens += len(answer.tokens)  # not in one statement: the sum would be read before the wait

    begun = time.perf_counter()
    await asyncio.gather(*map(run, range(clients)))
    return tokens / (time.perf_counter() - begun)


async def flood(url: str, process: int, requests: int, clients: int = 8) -> dict[str, float]:
    """Memory before and after many requests, every second one malformed."""

    async def run(numbers: Sequence[int]) -> int:
        client, failed = Client(url), 0
        for number in numbers:
            if number % 2:
                failed += (await client.send(MALFORMED[number // 2 % len(MALFORMED)])).status != 400
            else:
                failed += (await client.ask(PROMPTS[number // 2 % len(PROMPTS)], 4)).status != 200
        return failed

    async def send(count: int) -> int:
        return sum(await asyncio.gather(*(run(range(at, count, clients)) for at in range(clients))))

    failed = await send(max(200, requests * 3 // 10))
    before = resident(process)
    failed += await send(requests)
    after = resident(process)
    return {"requests": requests, "failed": failed, "before": before, "after": after, "growth": after / before - 1}


async def measure(url: str, process: int, seconds: float, requests: int, long: int) -> dict[str, Any]:
    one, many = await rate(url, 1, seconds / 4), await rate(url, 16, seconds / 4)
    return {
        "first_token": await first_token(url, long),
        "streams": await streams(url, seconds),
        "throughput": {"clients_1": one, "clients_16": many, "ratio": many / one},
        "memory": await flood(url, process, requests),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--requests", type=int, default=10_000)
    parser.add_argument("--long", type=int, default=450, help="tokens of the long answer")
    parser.add_argument("--json", action="store_true")
    wanted = parser.parse_args()
    with serving(wanted.artifact) as (url, process):
        found = asyncio.run(measure(url, process, wanted.seconds, wanted.requests, wanted.long))
    if wanted.json:
        print(json.dumps(found, indent=2))
    else:
        for name, facts in found.items():
            print(f"{name:12}", "  ".join(f"{fact} {value:.4g}" for fact, value in facts.items()))
    return 1 if found["streams"]["wrong"] or found["memory"]["failed"] else 0


if __name__ == "__main__":
    sys.exit(main())
