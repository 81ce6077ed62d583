"""Log probabilities of a vLLM engine that loads artifacts of this project: run in an environment that has vLLM, alone.

    python read_back.py OUT ARTIFACT...      OUT/<name of the artifact's folder>.json: one list of numbers

The engine reads shards by `load_format=sharded_state`; the numbers are those of the tokens of PROMPT, after the first.
vLLM's library for CPUs without AVX512 has no product for weights of four bits: there one in Python computes it, from
the words as vLLM has read and repacked them.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

PROMPT = [256, *range(40, 72)]


def add_product() -> None:
    """Register `cpu_gemm_wna16` of vLLM 0.32.0 where its library lacks it (model_executor/kernels/linear/
    mixed_precision/cpu.py): inputs [tokens, in], words [out / 16, in * 2] of eight neighbors of a column.
    """
    import torch

    if hasattr(torch.ops._C, "cpu_gemm_wna16"):
        return
    tensors = "Tensor input, Tensor weight, Tensor(a!) out, Tensor scales, Tensor? zeros, Tensor? bias"
    LIBRARY.append(torch.library.Library("_C", "FRAGMENT"))
    LIBRARY[0].define(f"cpu_gemm_wna16({tensors}, int pack_factor, str isa_hint) -> ()")
    LIBRARY[0].impl("cpu_gemm_wna16", product, "CPU")


LIBRARY: list[Any] = []
"""The registration, which ends with its object."""


def product(inputs: Any, words: Any, out: Any, scales: Any, _zeros: Any, bias: Any, _n: int, _isa: str) -> None:
    """Write `inputs` times the weights in `words`, which are symmetric."""
    import torch

    width = inputs.shape[1]
    each = torch.stack([words.view(-1, width, 2) >> shift & 15 for shift in range(0, 32, 4)], -1)
    whole = each.reshape(-1, width, 16).permute(1, 0, 2).reshape(width, -1) - 8
    weights = (whole * scales.float().repeat_interleave(width // scales.shape[0], 0)).to(inputs.dtype)
    out.copy_(torch.nn.functional.linear(inputs, weights.t(), bias))


def main() -> int:
    """Load and ask one artifact after the other; 1 if one failed."""
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    from vllm import LLM, SamplingParams

    add_product()
    failed = 0
    for artifact in sys.argv[2:]:
        try:
            engine = LLM(
                model=artifact,
                load_format="sharded_state",
                skip_tokenizer_init=True,
                enforce_eager=True,
                max_model_len=64,
                dtype="bfloat16",
            )
            asked = SamplingParams(max_tokens=1, temperature=0.0, prompt_logprobs=0, detokenize=False)
            (answer,) = engine.generate([{"prompt_token_ids": PROMPT}], asked, use_tqdm=False)
            found = [step[token].logprob for token, step in zip(PROMPT, answer.prompt_logprobs, strict=True) if step]
            (Path(sys.argv[1]) / f"{Path(artifact).name}.json").write_text(json.dumps(found))
            print("OK", Path(artifact).name, flush=True)
            del engine
        except Exception as error:  # noqa: BLE001
            print("FAIL", Path(artifact).name, type(error).__name__, str(error)[-600:].replace("\n", " | "), flush=True)
            failed = 1
    return failed


if __name__ == "__main__":
    sys.exit(main())
