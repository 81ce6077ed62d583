"""Log probabilities of a vLLM engine that loads artifacts of this project: run in an environment that has vLLM, alone.

    python read_back.py OUT ARTIFACT...      OUT/<name of the artifact's folder>.json: one list of numbers

The engine reads shards by `load_format=sharded_state`; the numbers are those of the tokens of PROMPT, after the first.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

PROMPT = [256, *range(40, 72)]


def main() -> int:
    """Load and ask one artifact after the other; 1 if one failed."""
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    from vllm import LLM, SamplingParams

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
