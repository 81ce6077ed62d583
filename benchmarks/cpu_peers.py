"""Artifacts against llama.cpp and OpenVINO GenAI on this CPU: prefill, decoding, start and memory.

    python -m benchmarks.cpu_peers --work DIR [--isa avx2] [--turns 3] [--weights bf16,int8,int4] [--batches 1,4,8]
        [--prompts 128,512] [--rounds 3] [--threads N] [--checkpoint CHECKPOINT] [--peer-head Q8_0]

The same weights for all, greedy, 32 decode steps: a random TinyLlama, or CHECKPOINT, a Llama or Qwen2 of one file in
bfloat16 (`benchmarks/testbed/coder.py` makes one); each has a DIR of its own. The peers' packages (PEERS) come from the
package index into an environment of their own in DIR, their models are GGUF files of the same checkpoint; DIR keeps
everything and needs 20 GB. `--isa` forces a level of our kernels, and the one of torch's oneDNN that is like it. The
package of llama.cpp is compiled for AVX2; OpenVINO takes what the CPU has (it fails under ONEDNN_MAX_CPU_ISA), so a
forced level compares fairly with llama.cpp alone. Contenders alternate, each turn after a measurement of the read
bandwidth; each in a process of its own, which answers `--rounds` times; its best answer counts. Prints medians of the
turns, and ours relative to the best peer.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.decode import bandwidth
from benchmarks.tinyllama import ROOT, machine, run_cli, write_checkpoint

PEERS = ("xllamacpp==2026.10.11549", "gguf==0.19.0", "openvino==2026.4.1", "openvino-genai==2026.4.1.0")
WEIGHTS: dict[str, tuple[tuple[str, ...], str]] = {
    "bf16": ((), "F16"),
    "int8": (("--quant", "int8-weight", "--lm-head", "int8"), "Q8_0"),
    "int4": (("--quant", "int4-weight", "--lm-head", "int8"), "Q4_0"),
}
"""Weights: our options, and the peers' format."""
HEAD = "Q8_0"
"""Format of the peers' heads beside weights of 4 bits: 8 bits, as ours. llama.cpp's own tool gives a head 6 bits, or 8
where 256 does not divide its width (llama-quant.cpp). `--peer-head Q4_0`: 4 bits.
"""
ONEDNN = {"avx2": "AVX2", "avx512": "AVX512_CORE", "avx512_vnni": "AVX512_CORE_VNNI", "avx512_bf16": "AVX512_CORE_BF16"}
"""Value of ONEDNN_MAX_CPU_ISA for each level (documentation of oneDNN, "CPU dispatcher control")."""
STEPS = 32


@dataclass(frozen=True)
class Result:
    """One process. Seconds of the best answer; `start`: to the first token of the first one; `peak`: bytes."""

    prefill: float
    decode: float
    start: float
    peak: int


def peers_file(work: Path, name: str, head: str) -> tuple[Path, str]:
    """The peers' file for weights `name`, and the format of its head: `head` beside weights of 4 bits."""
    form = WEIGHTS[name][1]
    own = head if form == "Q4_0" else form
    return work / (f"model-{form}.gguf" if own == form else f"model-{form}-head-{own}.gguf"), own


def prepare(work: Path, given: Path | None, weights: Sequence[str], head: str = HEAD) -> Path:
    """Make checkpoint, artifacts, GGUF files and the peers' environment where they are missing; return its Python."""
    checkpoint, python = given or work / "tinyllama", work / "peers" / "bin" / "python"
    if not (checkpoint / "config.json").exists():
        write_checkpoint(checkpoint)
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", str(work / "peers")], check=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", *PEERS], check=True)
    for name in weights:
        scheme, form = WEIGHTS[name]
        artifact, (gguf, of_head) = work / f"model-{name}", peers_file(work, name, head)
        if not artifact.exists():
            # Random weights: the gate may refuse int4, which says nothing about its speed.
            options = (*scheme, "--accept-numerics", "--proof", "quick", "--max-batch", "8")
            arguments = ("--model", str(checkpoint), "--output", str(artifact), *options)
            run_cli("build", *arguments, cache=work / "cache")
        if not gguf.exists():
            script = ROOT / "benchmarks" / "testbed" / "gguf_model.py"
            subprocess.run([str(python), str(script), str(checkpoint), str(gguf), form, of_head], check=True)
    return python


def answers(argv: Sequence[str], environment: Mapping[str, str]) -> tuple[list[dict[str, float]], float, int]:
    """JSON lines of a process, the clock at its start, and its peak resident memory in bytes."""
    begun = time.monotonic()
    process = subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, cwd=ROOT, env={**os.environ, **environment}
    )
    assert process.stdout is not None
    lines = [line for line in process.stdout if line.startswith("{")]
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode or not lines:
        raise SystemExit(f"`{' '.join(argv)}` ended with {process.returncode} and {len(lines)} answers")
    return [json.loads(line) for line in lines], begun, usage.ru_maxrss << 10


def ours(artifact: Path, sizes: Sequence[str], environment: Mapping[str, str]) -> Result:
    found, begun, peak = answers(
        [sys.executable, "-m", "benchmarks.one", "artifact", str(artifact), *sizes], environment
    )
    prefill, decode = (min(r[a] - r[b] for r in found) for a, b in (("first", "begun"), ("last", "first")))
    return Result(prefill, decode, found[0]["first"] - begun, peak)


def peer(
    python: Path, name: str, model: Path, sizes: Sequence[str], threads: int, environment: Mapping[str, str]
) -> Result:
    script = ROOT / "benchmarks" / "testbed" / "peer.py"
    argv = [str(python), str(script), name, str(model), *sizes, f"--threads={threads}"]
    found, begun, peak = answers(argv, environment)
    one, whole = (min(r[name] for r in found) for name in ("one", "all"))
    return Result(one, whole - one, found[0]["first"] - begun, peak)


def compare(work: Path, python: Path, name: str, batch: int, prompt: int, options: argparse.Namespace) -> None:
    """Print the rows of one kind of weights, batch and length of prompt."""
    sizes = [f"--batch={batch}", f"--prompt={prompt}", f"--new={STEPS + 1}", f"--rounds={options.rounds}"]
    threads = {"OMP_NUM_THREADS": str(options.threads)}
    forced = {"LMI_COMPILE_ISA": options.isa, "ONEDNN_MAX_CPU_ISA": ONEDNN.get(options.isa, "DEFAULT")}
    gguf, _ = peers_file(work, name, options.peer_head)
    found: dict[str, list[Result]] = {"ours": [], "llama.cpp": [], "openvino": []}
    read = []
    for _ in range(options.turns):
        read.append(bandwidth())
        found["ours"].append(ours(work / f"model-{name}", sizes, threads | forced if options.isa else threads))
        for contender in ("llama.cpp", "openvino"):
            found[contender].append(peer(python, contender, gguf, sizes, options.threads, threads))

    def median(contender: str, field: str) -> float:
        return float(statistics.median(getattr(result, field) for result in found[contender]))

    limit = statistics.median(read) / 1e9
    for contender in found:
        cells = [
            f"{batch * prompt / median(contender, 'prefill'):.1f}",
            f"{batch * STEPS / median(contender, 'decode'):.1f}",
        ]
        cells += [f"{median(contender, 'start'):.2f}", f"{median(contender, 'peak') / 2**20:.0f}"]
        print(f"| {name} | {batch} | {prompt} | {contender} | {' | '.join(cells)} | {limit:.1f} |", flush=True)
    ratios = [
        min(median(other, field) for other in ("llama.cpp", "openvino")) / median("ours", field)
        for field in ("prefill", "decode", "start", "peak")
    ]
    cells = [f"{ratio:.2f}" for ratio in ratios]
    print(f"| {name} | {batch} | {prompt} | best peer / ours, time or bytes | {' | '.join(cells)} | |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--isa", default="", help="level of our kernels, see `lmi-compile doctor`")
    parser.add_argument("--checkpoint", type=Path, help="another model than a random TinyLlama")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--weights", default="bf16,int8,int4")
    parser.add_argument("--batches", default="1,4,8")
    parser.add_argument("--prompts", default="128,512", help="with one row; several rows have the first")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--peer-head", default=HEAD, help="format of the peers' heads beside weights of 4 bits")
    options = parser.parse_args()
    weights, prompts = options.weights.split(","), [int(prompt) for prompt in options.prompts.split(",")]
    work = options.work.absolute()
    work.mkdir(parents=True, exist_ok=True)
    python = prepare(work, options.checkpoint, weights, options.peer_head)
    print(f"{machine()}, {options.threads} threads, {options.isa or 'highest level'}")
    print("| weights | batch | prompt | | prefill tok/s | decode tok/s | start to first token, s | peak MiB | GB/s |")
    print("|---|---|---|---|---|---|---|---|---|", flush=True)
    for name in weights:
        for batch in map(int, options.batches.split(",")):
            for prompt in prompts if batch == 1 else prompts[:1]:
                compare(work, python, name, batch, prompt, options)


if __name__ == "__main__":
    main()
