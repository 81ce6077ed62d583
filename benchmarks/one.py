"""One process of a benchmark: load a model, answer a batch of token ids greedily, and print the times.

    python -m benchmarks.one MODE FOLDER --batch 1 --prompt 128 --new 33 --rounds 3

MODE is `artifact` (FOLDER is an artifact), or `eager` or `compile` (FOLDER is its checkpoint; transformers without and
with torch.compile). Prints one JSON line per answer, with the monotonic clock at the request (`begun`) and at the first
and last token of the batch (`first`, `last`). The other benchmarks start it.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path

Answer = Callable[[list[list[int]], int], tuple[float, float]]
"""Function of (prompts, new tokens) that returns the clock at the first and the last token."""


def artifact(folder: Path) -> Answer:
    from compiler.runtime.generate import load
    from compiler.runtime.lean import import_torch
    from compiler.runtime.params import GenerationParams

    model = load(folder, import_torch=import_torch)  # as `lmi-compile generate` does

    def answer(prompts: list[list[int]], new: int) -> tuple[float, float]:
        params = GenerationParams(max_new_tokens=new, ignore_eos=True)
        first = 0.0
        if len(prompts) == 1:
            for _ in model.stream(prompts[0], params):
                first = first or time.monotonic()
        else:
            begun = time.monotonic()
            done = model.generate(prompts, params)
            first = begun + max(c.seconds_to_first_token for c in done)
        return first, time.monotonic()

    return answer


def transformers_model(folder: Path, *, compiled: bool) -> Answer:
    """Greedy decoding with a static cache, which torch.compile needs, or with the default one."""
    import torch
    from transformers import AutoModelForCausalLM, DynamicCache, StaticCache

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).eval()
    forward = torch.compile(model.forward, dynamic=False) if compiled else model.forward

    @torch.no_grad()
    def answer(prompts: list[list[int]], new: int) -> tuple[float, float]:
        ids = torch.tensor(prompts)
        length = ids.shape[1]
        cache = (
            StaticCache(config=model.config, max_cache_len=-(-(length + new) // 64) * 64)
            if compiled
            else DynamicCache(config=model.config)
        )
        first = 0.0
        positions = torch.arange(length)
        for step in range(new):
            out = forward(input_ids=ids, past_key_values=cache, cache_position=positions, logits_to_keep=1)
            ids = out.logits[:, -1].argmax(-1, keepdim=True)
            ids.tolist()  # the token is known when it is a number
            first = first or time.monotonic()
            positions = torch.tensor([length + step])
        return first, time.monotonic()

    return answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("artifact", "eager", "compile"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--prompt", type=int, default=128)
    parser.add_argument("--new", type=int, default=33)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    if options.mode == "artifact":
        answer = artifact(options.folder)
    else:
        answer = transformers_model(options.folder, compiled=options.mode == "compile")
    for number in range(options.rounds):  # prompts differ, as servers keep prefixes
        prompts = [
            [3 + (101 * number + 7 * row + 13 * i) % 30000 for i in range(options.prompt)]
            for row in range(options.batch)
        ]
        begun = time.monotonic()
        first, last = answer(prompts, options.new)
        print(json.dumps({"begun": begun, "first": first, "last": last}), flush=True)


if __name__ == "__main__":
    main()
