"""One process of a peer on the CPU: load a GGUF file, answer a batch of token ids greedily, and print the times.

    python peer.py llama.cpp|openvino MODEL.gguf --batch 1 --prompt 128 --new 33 --rounds 3 --threads 2

Runs in the environment of the peers (see `benchmarks/cpu_peers.py`). Prints one JSON line per round: seconds of
an answer of `one` token and of one with `all`, and the clock at the end of the former.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

Answer = Callable[[list[list[int]], int], None]
"""Function of (prompts, new tokens) that returns when every row has its tokens."""


def llama_cpp(model: str, batch: int, threads: int) -> Answer:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = model
    params.n_parallel = batch
    params.n_ctx = 2048 * batch
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = threads
    params.warmup = False
    server = xllamacpp.Server(params)

    def answer(prompts: list[list[int]], new: int) -> None:
        common = {"n_predict": new, "ignore_eos": True, "temperature": 0, "cache_prompt": False}
        requests = [{"prompt": prompt, **common} for prompt in prompts]
        with ThreadPoolExecutor(batch) as pool:
            list(pool.map(server.handle_completions, requests))

    return answer


def openvino(model: str, _batch: int, threads: int) -> Answer:
    import numpy as np
    import openvino
    import openvino_genai

    pipeline = openvino_genai.LLMPipeline(model, "CPU", INFERENCE_NUM_THREADS=threads)

    def answer(prompts: list[list[int]], new: int) -> None:
        config = openvino_genai.GenerationConfig()
        config.max_new_tokens, config.ignore_eos = new, True
        ids = np.array(prompts, np.int64)
        pipeline.generate(
            openvino_genai.TokenizedInputs(openvino.Tensor(ids), openvino.Tensor(np.ones_like(ids))), config
        )

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
    for number in range(options.rounds):
        clock = [time.monotonic()]
        for half, new in enumerate((1, options.new)):  # prompts differ, as servers keep prefixes
            shift = 101 * (2 * number + half)
            prompts = [
                [3 + (shift + 7 * row + 13 * i) % 30000 for i in range(options.prompt)] for row in range(options.batch)
            ]
            answer(prompts, new)
            clock.append(time.monotonic())
        begun, first, last = clock
        print(json.dumps({"one": first - begun, "all": last - first, "first": first}), flush=True)


if __name__ == "__main__":
    main()
