"""Speed of `lmi-compile push` and `pull` against boto3, s5cmd, rclone and `cp`, with the same bytes and server.

    python -m benchmarks.transfer push|pull|local [--folder DIR] [--runs 3] [--s5cmd PROGRAM] [--without rclone]

`push`, `pull`: an artifact of 2.1 GB (two files) to and from `rclone serve s3` on this machine, 8 threads. Ours
verifies the sha256 of every file, uses conditional writes, and syncs pulled files to disk (fsync) before it ends; the
others do none of that. So each command is timed twice, to its end and to the end of a following `sync`, and s5cmd pulls
a second time, followed by `openssl dgst -sha256` of both files at once. boto3 is tuned: parts of 64 MiB, 8 threads,
1 MiB reads. `local`: `pull` from a store that is a folder, against `cp -r`.
Every command is a fresh process; they take turns; the first turn is not counted. Prints medians, the best other, and
the ratio (above 1: ours is faster).
"""

from __future__ import annotations

import argparse
import itertools
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.testbed import artifacts, servers
from benchmarks.tinyllama import ROOT, machine
from compiler.artifact.manifest import ArtifactFile
from compiler.storage.files.digest import OCTETS, digest_bytes, sha256_file
from compiler.storage.files.writer import encode_header

SIZE = 1 << 30
VERIFIED = "s5cmd, openssl sha256"
"""Command with the same guarantee as ours; it is not among the peers of the ratio."""
MIB = 1 << 20
HEADER = encode_header([("weights", "U8", (SIZE,))])

BOTO3 = """
import sys; from pathlib import Path; import boto3; from boto3.s3.transfer import TransferConfig; from botocore.config import Config
what, folder, bucket, prefix = sys.argv[1:]
client = boto3.client("s3", config=Config(request_checksum_calculation="when_required", response_checksum_validation="when_required", max_pool_connections=16))
options = TransferConfig(multipart_chunksize=64 << 20, max_concurrency=8, io_chunksize=1 << 20, preferred_transfer_client="classic")
folder = Path(folder)
if what == "push":
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            client.upload_file(str(path), bucket, prefix + str(path.relative_to(folder)), Config=options)
else:
    for item in client.list_objects_v2(Bucket=bucket, Prefix=prefix)["Contents"]:
        path = folder / item["Key"][len(prefix):]
        path.parent.mkdir(parents=True, exist_ok=True)
        client.download_file(bucket, item["Key"], str(path), Config=options)
"""  # noqa: E501  # a program in one piece


def write_artifact(folder: Path) -> Path:
    """Write an artifact of 2.1 GB of random bytes with a manifest."""
    content = dict(artifacts.CONTENT)
    for path in [path for path in content if path.startswith("weights/")]:
        del content[path]
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        with (folder / path).open("wb") as file:
            file.write(HEADER)
            for _ in range(SIZE // MIB):
                file.write(os.urandom(MIB))
    for path, data in content.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(data)
    files = [
        ArtifactFile(
            path=path, media_type=OCTETS, digest=sha256_file(folder / path), size=(folder / path).stat().st_size
        )
        for path in artifacts.CONTENT
    ]
    (folder / "manifest.json").write_bytes(artifacts.manifest(files=tuple(files)).to_bytes())
    return folder


def timed(command: list[str]) -> tuple[float, float, float]:
    """Run a process: seconds to its end, seconds until all is on disk, and peak resident MiB."""
    os.sync()
    started = time.monotonic()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    _, status, usage = os.wait4(child.pid, 0)
    ended = time.monotonic()
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} exited with {child.returncode}")
    os.sync()
    return ended - started, time.monotonic() - started, usage.ru_maxrss / 1024


Command = Callable[[Path, str], list[str]]
"""Function of (local folder, prefix in the bucket) that returns a command line."""


def ours(what: str, artifact: Path) -> Command:
    def command(folder: Path, prefix: str) -> list[str]:
        uri = f"s3://{servers.BUCKET}/{prefix}tiny@1"
        arguments = [str(artifact), uri] if what == "push" else [uri, str(folder)]
        return [sys.executable, "-m", "compiler", what, *arguments]

    return command


def others(what: str, artifact: Path, endpoint: str, s5cmd: str | None) -> dict[str, Command]:
    remote = (
        f":s3,provider=Other,endpoint='{endpoint}',access_key_id={servers.KEY},secret_access_key={servers.SECRET}"
        f",force_path_style=true:{servers.BUCKET}/"
    )
    tuning = [
        "--transfers",
        "4",
        "--s3-upload-concurrency",
        "8",
        "--s3-chunk-size",
        "64M",
        "--multi-thread-streams",
        "8",
    ]
    program = str(Path(sys.executable).with_name("rclone"))

    def boto3(folder: Path, prefix: str) -> list[str]:
        return [sys.executable, "-c", BOTO3, what, str(artifact if what == "push" else folder), servers.BUCKET, prefix]

    def rclone(folder: Path, prefix: str) -> list[str]:
        ends = [str(artifact), remote + prefix] if what == "push" else [remote + prefix, str(folder)]
        return [program, "copy", *ends, *tuning, "--config", os.devnull]

    def with_s5cmd(folder: Path, prefix: str) -> list[str]:
        there = f"s3://{servers.BUCKET}/{prefix}"
        ends = [f"{artifact}/", there] if what == "push" else [f"{there}*", f"{folder}/"]
        return [str(s5cmd), "--endpoint-url", endpoint, "cp", *ends]

    def and_verified(folder: Path, prefix: str) -> list[str]:
        sums = [(folder / path.relative_to(artifact), sha256_file(path)[7:]) for path in _large(artifact)]
        # openssl uses the instructions for SHA that coreutils' sha256sum may be built without.
        each = [f"openssl dgst -sha256 -r '{path}' | grep -q {digest}" for path, digest in sums]
        check = "; ".join(f'{{ {line}; }} & waits="$waits $!"' for line in each)
        ended = 'for one in $waits; do wait "$one" || exit 1; done'
        return ["sh", "-c", f"{shlex.join(with_s5cmd(folder, prefix))} && {{ {check}; {ended}; }}"]

    found: dict[str, Command] = {"boto3, tuned": boto3, "rclone": rclone}
    if s5cmd:
        found["s5cmd"] = with_s5cmd
    if s5cmd and what == "pull":
        found[VERIFIED] = and_verified
    return found


def _large(artifact: Path) -> list[Path]:
    return [path for path in artifact.rglob("*.safetensors") if path.stat().st_size > MIB]


def measure(commands: dict[str, Callable[[Path], list[str]]], work: Path, runs: int, nbytes: int) -> None:
    """Run the commands in turns. Removes `work / "out"` and the commands' objects in the bucket after each."""
    results: dict[str, list[tuple[float, float, float]]] = {name: [] for name in commands}
    for turn in range(runs + 1):
        for name, command in commands.items():
            found = timed(command(work / "out"))
            shutil.rmtree(work / "out", ignore_errors=True)
            print(f"turn {turn}: {name} {found[0]:.2f} s, {found[1]:.2f} s on disk", file=sys.stderr, flush=True)
            if turn:
                results[name].append(found)
    medians = {
        name: [statistics.median(column) for column in zip(*rows, strict=True)] for name, rows in results.items()
    }
    print(f"{'':24} {'s':>7} {'MB/s':>6} {'s, sync':>8} {'peak MiB':>9}")
    for name, (ended, synced, peak) in medians.items():
        each = " ".join(f"{row[0]:.1f}/{row[1]:.1f}" for row in results[name])
        print(f"{name:24} {ended:7.2f} {nbytes / ended / 1e6:6.0f} {synced:8.2f} {peak:9.0f}   {each}")
    first, *rest = (row for name, row in medians.items() if name != VERIFIED)
    for column, title in ((0, "until it ends"), (1, "until it is on disk")):
        print(f"best other / ours, {title}: {min(row[column] for row in rest) / first[column]:.2f}", flush=True)
    if VERIFIED in medians:
        print(f"{VERIFIED} / ours, until it ends: {medians[VERIFIED][0] / first[0]:.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["push", "pull", "local"])
    parser.add_argument("--folder", type=Path, help="where to work; default: the temporary folder")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--s5cmd", default=shutil.which("s5cmd"), help="the program; left out where there is none")
    parser.add_argument("--without", action="append", default=[], help="a client to leave out")
    options = parser.parse_args()
    print(machine())
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        work = Path(name).absolute()
        artifact = write_artifact(work / "artifact")
        nbytes = sum(path.stat().st_size for path in artifact.rglob("*") if path.is_file())
        with servers.rclone(work / "server") as endpoint:
            os.environ |= servers.environment(endpoint, work)
            if options.what == "local":
                uri = f"{work}/store/tiny@1"
                timed([sys.executable, "-m", "compiler", "push", str(artifact), uri])
                measure(
                    {
                        "lmi-compile pull": lambda out: [sys.executable, "-m", "compiler", "pull", uri, str(out)],
                        "cp -r": lambda out: ["cp", "-r", str(artifact), str(out)],
                    },
                    work,
                    options.runs,
                    nbytes,
                )
                return
            everybody = {f"lmi-compile {options.what}": ours(options.what, artifact)}
            everybody |= others(options.what, artifact, endpoint, options.s5cmd)
            everybody = {name: command for name, command in everybody.items() if name not in options.without}
            prefix = f"there/tiny/{digest_bytes((artifact / 'manifest.json').read_bytes())[7:]}/"
            if options.what == "pull":
                timed(ours("push", artifact)(artifact, "there/"))
            turns = itertools.count()

            def fresh(command: Command, *, own: bool) -> Callable[[Path], list[str]]:
                def line(out: Path) -> list[str]:
                    if options.what == "pull":
                        return command(out, "there/" if own else prefix)
                    turn = next(turns)  # a prefix of its own: the server remembers folders for minutes
                    shutil.rmtree(work / "server" / servers.BUCKET / f"new{turn - 1}", ignore_errors=True)
                    return command(out, f"new{turn}/")

                return line

            measure(
                {name: fresh(command, own=name.startswith("lmi")) for name, command in everybody.items()},
                work,
                options.runs,
                nbytes,
            )


if __name__ == "__main__":
    main()
