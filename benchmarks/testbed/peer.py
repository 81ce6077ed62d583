"""One process of a peer on the CPU: load a GGUF file, answer a batch of token ids greedily, and print the times.

    python peer.py llama.cpp|openvino MODEL.gguf --batch 1 --prompt 128 --new 33 --rounds 3 --threads 2

Runs in the environment of the peers (see `benchmarks/cpu_peers.py`). Prints one JSON line per answer: seconds of
prefill and of all decode steps (of the slowest row), and the monotonic clock at its end.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

Answer = Callable[[list[list[int]], int], tuple[float, float]]
"""Function of (prompts, new tokens) that returns seconds of prefill and of decoding."""


def llama_cpp(model: str, batch: int, threads: int) -> Answer:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_parallel = batch
    params.n_ctx = 2048 * batch
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.warmup = False
    server = xllamacpp.Server(params)

    def one(prompt: list[int], new: int) -> dict[str, Any]:
        request = {"prompt": prompt, "n_predict": new, "ignore_eos": True, "temperature": 0, "cache_prompt": False}
        timings: dict[str, Any] = server.handle_completions(request)["timings"]
        return timings

    def answer(prompts: list[list[int]], new: int) -> tuple[float, float]:
        begun = time.monotonic()
        with ThreadPoolExecutor(batch) as pool:
            found = list(pool.map(lambda prompt: one(prompt, new), prompts))
        whole = time.monotonic() - begun
        decode = max(timings["predicted_ms"] for timings in found) / 1e3
        return (found[0]["prompt_ms"] / 1e3 if batch == 1 else whole - decode), decode

    return answer


def openvino(model: str, _batch: int, threads: int) -> Answer:
    import numpy as np
    import openvino
    import openvino_genai

    pipeline = openvino_genai.LLMPipeline(model, "CPU", INFERENCE_NUM_THREADS=threads)

    def answer(prompts: list[list[int]], new: int) -> tuple[float, float]:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos = new, True
        ids = np.array(prompts, np.int64)
        inputs = openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids)))
        metrics = pipeline.generate(inputs, config).perf_metrics
        return metrics.get_ttft().mean / 1e3, metrics.get_tpot().mean / 1e3 * (new - 1)

    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("peer", choices=("llama.cpp", "openvino"))
    parser.add_argument("model")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=33)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, required=True)
    options = parser.parse_args()
    answer = (llama_cpp if options.peer == "llama.cpp" else openvino)(options.model, options.batch, options.threads)
    for _ in range(options.rounds):
        prompts = [[3 + (7 * row + 13 * i) % 30000 for i in range(options.prompt)] for row in range(options.batch)]
        prefill, decode = answer(prompts, options.new)
        print(json.dumps({"prefill": prefill, "decode": decode, "now": time.monotonic()}), flush=True)


if __name__ == "__main__":
    main()
