"""Quantization against llm-compressor: perplexity by one judge, seconds and memory; and SmoothQuant's alpha.

    python -m benchmarks.quantizers --model FOLDER --work DIR [--only ours/gptq,peer/awq] [--samples 32] [--length 256]
        [--alphas 0.3,0.4,0.5,0.6,0.7,auto] [--threads 2] [--peer-dtype bfloat16]

FOLDER is a checkpoint of Llama or Qwen2 in bfloat16. Both calibrate on the same rows of token ids (docstrings of the
standard library); the judge is transformers in float32, on prose of Python's documentation that neither calibrates on:
it gets dequantized weights, ours from rank files of target inductor at tp 1, the peer's from its modules, and rounds
the inputs of linear layers to int8 per token for schemes that do so. The peer's packages (PEERS) come from the package
index into an environment of their own in DIR, which takes torch from this one. Ours runs with an empty stage cache.
`--alphas`: `smoothquant` with each of these instead of the comparison. `--peer-dtype float32`: the peer's model in this
dtype, which is faster on a CPU without products of bfloat16.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import shutil
import site
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.testbed.measured import lmi_compile
from benchmarks.testbed.text import HELD_OUT, docstrings, paragraphs
from benchmarks.tinyllama import ROOT, machine

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

PEERS = (
    "llmcompressor==0.14.0.1", "compressed-tensors==0.19.0", "transformers==5.17.0", "huggingface-hub==1.5.0",
    "datasets==4.8.4", "auto-round==0.15.1", "accelerate==1.15.0", "fsspec==2026.2.0",
)  # fmt: skip
"""Packages that are installed without their requirements, which would bring another torch."""
REQUIRED = (
    "loguru", "nvidia-ml-py", "pillow", "dill", "multiprocess", "xxhash", "pandas", "pyarrow", "psutil", "httpx",
    "py-cpuinfo",
)  # fmt: skip
"""Packages that these import, besides torch and those of this environment."""
HELD_OUT_ROWS, HELD_OUT_LENGTH = 16, 256
OURS = ("int8-weight", "int4-weight", "gptq", "awq", "smoothquant")
THEIRS = (*OURS, "awq-asymmetric")
ROUNDED_INPUTS = ("smoothquant",)
"""Schemes with activations in int8."""
RUNS = ("source", *(f"ours/{name}" for name in OURS), *(f"peer/{name}" for name in THEIRS))


class QuantizerFailure(Exception):
    """Failure of one quantizer: the others run."""


@dataclass(frozen=True)
class Row:
    """One quantizer. `seconds`, `peak` bytes: of its process; `perplexity`: by the judge."""

    name: str
    seconds: float
    peak: int
    perplexity: float

    def text(self, source: float) -> str:
        """Cells of a table."""
        return (
            f"{self.name} | {self.perplexity:.4f} | {self.perplexity / source - 1:+.2%} | {self.seconds:.1f} | "
            f"{self.peak / 1e9:.2f}"
        )


@dataclass(frozen=True)
class Testbed:
    """Checkpoint `model`; token ids to calibrate on, in a file, and to judge on."""

    model: Path
    work: Path
    calibration: Path
    held_out: list[list[int]]
    threads: int
    peer_dtype: str

    def row(self, name: str, alpha: str = "0.5") -> Row:
        """Quantize and judge."""
        who, _, scheme = name.partition("/")
        with tempfile.TemporaryDirectory(dir=self.work) as folder:
            out = Path(folder) / "dequantized"
            if who == "source":
                return Row(name, 0.0, 0, judge(self.model, self.model, self.held_out))
            seconds, peak = (self._ours if who == "ours" else self._peer)(scheme, out, alpha)
            rounded = scheme in ROUNDED_INPUTS
            return Row(name, seconds, peak, judge(self.model, out, self.held_out, rounded=rounded))

    def rows(self) -> list[list[int]]:
        """Token ids to calibrate on."""
        return [json.loads(row)["input_ids"] for row in self.calibration.read_text().splitlines()]

    def _ours(self, scheme: str, out: Path, alpha: str) -> tuple[float, int]:
        ranks, cache = out.with_name("ranks"), out.with_name("cache")
        rows = self.rows()
        length = max(map(len, rows))
        words = ["convert", "--model", str(self.model), "--output", str(ranks), "--tp", "1", "--quant", scheme]
        words += ["--calibration", str(self.calibration), "--calibration-samples", str(len(rows))]
        words += ["--calibration-length", str(length), "--max-memory", "4GiB"]
        words += ["--smoothquant-alpha", alpha] if scheme in ROUNDED_INPUTS else []
        run = lmi_compile(*words, cache=cache, threads=self.threads)
        if run.code:
            raise QuantizerFailure(f"{scheme}: {run.error}")
        write_source_names(self.model, ranks / "weights" / "rank0.safetensors", out)
        return run.total, max(run.memory.values())

    def _peer(self, scheme: str, out: Path, alpha: str) -> tuple[float, int]:
        script = ROOT / "benchmarks" / "testbed" / "quantizer.py"
        words = [str(peer_python(self.work)), str(script), scheme, str(self.model), str(self.calibration), str(out)]
        words += ["--alpha", alpha, "--threads", str(self.threads), "--dtype", self.peer_dtype]
        environment = {**os.environ, "OMP_NUM_THREADS": str(self.threads), "TQDM_DISABLE": "1"}
        done = subprocess.run(words, capture_output=True, text=True, cwd=self.work, env=environment)
        if done.returncode:
            raise QuantizerFailure(f"{scheme} of the peer: {done.stderr.strip().splitlines()[-1]}")
        found = json.loads(done.stdout.splitlines()[-1])
        return found["load"] + found["quantize"], found["peak"]


def peer_python(work: Path) -> Path:
    """Python of the peer's environment, which is made where it is missing."""
    folder = work / "peer"
    python = folder / "bin" / "python"
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        install = [str(python), "-m", "pip", "install", "-q"]
        subprocess.run([*install, *REQUIRED], check=True, stdout=sys.stderr)
        subprocess.run([*install, "--no-deps", *PEERS], check=True, stdout=sys.stderr)
        (folder / "ready").touch()
    # Each time, since the folder may be that of an earlier run from another environment.
    (own,) = folder.glob("lib/python3*/site-packages")
    (own / "this-environment.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return python


def write_source_names(model: Path, rank: Path, out: Path) -> None:
    """Write the weights of the rank file of tp 1, dequantized in float32, under the checkpoint's names."""
    from safetensors.torch import load_file, save_file

    from compiler.decoder.quantized import dequantize_groups

    stored, found = load_file(rank), dict[str, "Tensor"]()
    hf = json.loads((model / "config.json").read_bytes())
    dim = hf.get("head_dim") or hf["hidden_size"] // hf["num_attention_heads"]
    rows = {
        "attn.qkv": {f"self_attn.{one}_proj": heads * dim for one, heads in _heads(hf).items()},
        "mlp.gate_up": dict.fromkeys(("mlp.gate_proj", "mlp.up_proj"), hf["intermediate_size"]),
    }
    for name, value in stored.items():
        stem, _, part = name.rpartition(".")
        if part not in ("weight", "bias"):
            continue
        scale = stored.get(f"{stem}.scale") if part == "weight" else None
        if scale is None:
            own = value.float()
        elif scale.ndim == value.ndim:
            own = dequantize_groups(value, scale)
        else:
            own = value.float() * scale[:, None]
        if not stem.startswith("layers."):
            found[f"{_OUTSIDE[stem]}.{part}"] = own
            continue
        _, layer, role = stem.split(".", 2)
        prefix = f"model.layers.{layer}."
        if role in rows:
            pieces = own.split(list(rows[role].values()))
            found |= {f"{prefix}{to}.{part}": piece for to, piece in zip(rows[role], pieces, strict=True)}
        else:
            found[f"{prefix}{_INSIDE[role]}.{part}"] = own
    out.mkdir(parents=True)
    vocab = hf["vocab_size"]
    found = {name: own[:vocab] if name in _TABLES else own for name, own in found.items()}
    save_file({name: own.contiguous().clone() for name, own in found.items()}, out / "model.safetensors")


_OUTSIDE = {"embed": "model.embed_tokens", "final.norm": "model.norm", "head": "lm_head"}
_INSIDE = {
    "attn.o": "self_attn.o_proj", "mlp.down": "mlp.down_proj", "attn.norm": "input_layernorm",
    "mlp.norm": "post_attention_layernorm",
}  # fmt: skip
_TABLES = ("model.embed_tokens.weight", "lm_head.weight")


def _heads(hf: dict[str, Any]) -> dict[str, int]:
    kv = hf.get("num_key_value_heads") or hf["num_attention_heads"]
    return {"q": hf["num_attention_heads"], "k": kv, "v": kv}


def judge(model: Path, weights: Path, rows: Sequence[Sequence[int]], *, rounded: bool = False) -> float:
    """Perplexity of the model with the float32 weights in the folder `weights`, by transformers. `rounded`: inputs of
    linear layers in int8, a scale per token.
    """
    import torch
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(model)
    with torch.no_grad():
        loaded = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
        state = {name: own for file in sorted(weights.glob("*.safetensors")) for name, own in load_file(file).items()}
        missing, unknown = loaded.load_state_dict({name: own.float() for name, own in state.items()}, strict=False)
        tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
        if set(missing) - tied or unknown:
            raise SystemExit(f"weights of {weights} do not fit: missing {missing}, unknown {unknown}")
        loaded.tie_weights()
        if rounded:
            for name, module in loaded.named_modules():
                if isinstance(module, torch.nn.Linear) and name != "lm_head":
                    module.register_forward_pre_hook(_rounding)
        return math.exp(token_loss(loaded, rows))


def token_loss(model: Any, rows: Sequence[Sequence[int]]) -> float:
    """Mean cross entropy of rows of one length, by a model of transformers."""
    import torch

    loss = 0.0
    for ids in rows:
        logits = model(torch.tensor([ids])).logits[0, :-1]
        loss += torch.nn.functional.cross_entropy(logits, torch.tensor(ids[1:])).item()
    return loss / len(rows)


def _rounding(_module: object, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    (x,) = inputs
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-8) / 127
    return ((x / scale).round().clamp(-127, 127) * scale,)


def token_rows(model: Path, texts: Sequence[str], count: int, length: int) -> list[list[int]]:
    """Rows of `length` token ids, at most `count`."""
    from tokenizers import Tokenizer

    ids = Tokenizer.from_file(str(model / "tokenizer.json")).encode("\n\n".join(texts)).ids
    rows = [ids[at : at + length] for at in range(0, len(ids) - length + 1, length)]
    return rows[:count]


def prepared(options: argparse.Namespace) -> Testbed:
    """Write the rows to calibrate on; options `model`, `work`, `samples`, `length`, `threads`."""
    options.work.mkdir(parents=True, exist_ok=True)
    calibration = options.work / "calibration.jsonl"
    rows = token_rows(options.model, list(docstrings()), options.samples, options.length)
    calibration.write_text("".join(json.dumps({"input_ids": ids}) + "\n" for ids in rows))
    held_out = token_rows(options.model, list(paragraphs())[::HELD_OUT], HELD_OUT_ROWS, HELD_OUT_LENGTH)
    print(
        f"calibrated on {sum(map(len, rows)):,} tokens in {len(rows)} rows; judged on {sum(map(len, held_out)):,}",
        flush=True,
    )
    return Testbed(options.model, options.work, calibration, held_out, options.threads, options.peer_dtype)


def _rows(testbed: Testbed, options: argparse.Namespace) -> Iterator[Row]:
    if options.alphas:
        yield testbed.row("source")
        for alpha in options.alphas.split(","):
            row = testbed.row("ours/smoothquant", alpha)
            yield Row(f"{row.name}, alpha {alpha}", row.seconds, row.peak, row.perplexity)
        return
    for name in dict.fromkeys(["source", *options.only.split(",")]):
        try:
            yield testbed.row(name)
        except QuantizerFailure as error:
            print(f"{name} | failed: {error}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--only", default=",".join(RUNS), help="names of runs, separated by commas")
    parser.add_argument("--samples", type=int, default=32, help="rows to calibrate on")
    parser.add_argument("--length", type=int, default=256, help="tokens of such a row")
    parser.add_argument("--alphas", default="")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--peer-dtype", choices=("bfloat16", "float32"), default="bfloat16")
    options = parser.parse_args()
    if unknown := set(options.only.split(",")) - set(RUNS):
        parser.error(f"no run is named {', '.join(sorted(unknown))}; the names are {', '.join(RUNS)}")
    options.model, options.work = options.model.absolute(), options.work.absolute()
    print(machine())
    testbed, source = prepared(options), math.nan
    print("quantizer | perplexity | increase | seconds | peak GB", flush=True)
    for row in _rows(testbed, options):
        source = row.perplexity if row.name == "source" else source
        print(row.text(source), flush=True)


if __name__ == "__main__":
    main()
