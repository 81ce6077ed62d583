"""Start of a vLLM server from the cache of an artifact against a start that compiles, and restoration of the cache.

    python -m benchmarks.vllm_start restore --work DIR [--files 500]
    LMI_COMPILE_VLLM_PYTHON=... python -m benchmarks.vllm_start start --work DIR --model CHECKPOINT [--dialect J|M]

`start` bakes, proves and runs the control once each, all in a namespace without a network, and prints the CPU-seconds
of the server with its children (import of vLLM included) and the seconds until it was ready. `--plugins`: folder with
further plugins of vLLM; tests/targets/vllm/cuda_path puts the compilation path of CUDA on a CPU (dialect M).
`restore` fills a cache with random files of 2 to 100 KiB, about as large as kernels are, and restores it.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import time
from pathlib import Path

from benchmarks.tinyllama import machine
from compiler.storage.files.digest import sha256_file
from compiler.targets.vllm.bake import BakeSpec, bake_and_prove
from compiler.targets.vllm.carrier.restore import ARCHIVE, restore
from compiler.targets.vllm.environment import BLOCK_SIZE
from compiler.targets.vllm.harvest import harvest
from compiler.targets.vllm.interpreter import python_with_vllm
from compiler.targets.vllm.isolation import isolation
from compiler.targets.vllm.server import ServerHost
from compiler.targets.vllm.serving import MODEL_PATH, Serving

LENGTH, ROWS = 256, 4


def start(work: Path, model: Path, dialect: str, plugins: Path | None) -> None:
    """Bake, prove and control of `model`."""
    serving = Serving(1, "bfloat16", LENGTH, ROWS, LENGTH, BLOCK_SIZE["cpu"], load_format="auto")
    vocab = json.loads((model / "config.json").read_text())["vocab_size"]
    spec = BakeSpec(serving, "M" if dialect == "M" else "J", "", "", vocab, {})
    out = work / "out"
    shutil.rmtree(work, ignore_errors=True)
    out.mkdir(parents=True)
    with isolation(model, MODEL_PATH) as isolated:
        host = ServerHost(python_with_vllm(), isolated, (str(plugins.absolute()),) if plugins else ())
        bake_and_prove(spec, "cpu", model, host, work, out)
    report = json.loads((out / "bake.json").read_text())
    print("| start | CPU-s | ready, s | ratio of CPU-s |")
    print("|---|---|---|---|")
    compiled = report["seconds"]["bake"]["cpu"]
    for name, seconds in report["seconds"].items():
        print(f"| {name} | {seconds['cpu']} | {seconds['ready']} | {compiled / seconds['cpu']:.2f} |")
    size = sum(file["size"] for file in report["files"])
    print(
        f"{len(report['files'])} files, {size} bytes, archive {(out / ARCHIVE).stat().st_size} bytes; {report['proof']}"
    )


def restoration(work: Path, files: int, runs: int) -> None:
    """Harvest and restore a cache of random files."""
    numbers = random.Random(0)
    made, artifact = work / "made", work / "artifact"
    shutil.rmtree(work, ignore_errors=True)
    artifact.mkdir(parents=True)
    for index in range(files):
        path = made / f"torch_aot_compile/k/inductor_cache/{index % 64:02x}/{index}.so"
        path.parent.mkdir(parents=True, exist_ok=True)
        half = numbers.randbytes(numbers.randrange(1 << 10, 50 << 10) // 2)
        path.write_bytes(half + bytes(len(half)) * 3)
    began = time.monotonic()
    found = harvest(made, artifact / ARCHIVE, {})
    packed = time.monotonic() - began
    digest = str(sha256_file(artifact / ARCHIVE))
    (artifact / "manifest.json").write_text(json.dumps({"files": [{"path": ARCHIVE, "digest": digest}]}))
    seconds, used = [], []
    for run in range(runs):
        began, cpu = time.monotonic(), time.process_time()
        restore(artifact, work / f"root{run}", work / f"record{run}")
        seconds.append(time.monotonic() - began)
        used.append(time.process_time() - cpu)
    began = time.monotonic()
    restore(artifact, work / "root0", work / "record0")
    again = time.monotonic() - began
    size = sum(file.size for file in found)
    print(f"{files} files, {size} bytes, archive {(artifact / ARCHIVE).stat().st_size} bytes, packed in {packed:.2f} s")
    print(
        f"restored in {statistics.median(seconds):.3f} s (median of {runs}: {', '.join(f'{s:.3f}' for s in seconds)}), "
        f"{statistics.median(used):.3f} CPU-seconds"
    )
    print(f"found restored in {again:.4f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("start", "restore"))
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--dialect", choices=("J", "M"), default="J")
    parser.add_argument("--plugins", type=Path)
    parser.add_argument("--files", type=int, default=500)
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    print(machine())
    if options.what == "restore":
        restoration(options.work, options.files, options.runs)
    else:
        start(options.work, options.model, options.dialect, options.plugins)


if __name__ == "__main__":
    main()
