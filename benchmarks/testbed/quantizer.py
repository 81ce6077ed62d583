"""One process of llm-compressor: quantize a checkpoint, and write its dequantized weights in float32.

    python quantizer.py gptq|awq|... MODEL CALIBRATION.jsonl OUT --threads 2

Runs in the environment of the peers (see `benchmarks/quantizers.py`). Prints one JSON line: seconds of loading and of
quantizing, and the most resident bytes.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

WEIGHTS = "model.safetensors"


def _plain(scheme: str) -> Callable[[float], list[Any]]:
    def make(_alpha: float) -> list[Any]:
        from llmcompressor.modifiers.quantization import QuantizationModifier

        return [QuantizationModifier(targets="Linear", scheme=scheme, ignore=["lm_head"])]

    return make


def _gptq(_alpha: float) -> list[Any]:
    from llmcompressor.modifiers.gptq import GPTQModifier

    return [GPTQModifier(targets="Linear", scheme="W4A16", ignore=["lm_head"])]


def _awq(scheme: str) -> Callable[[float], list[Any]]:
    def make(_alpha: float) -> list[Any]:
        from llmcompressor.modifiers.quantization import QuantizationModifier
        from llmcompressor.modifiers.transform.awq import AWQModifier

        return [AWQModifier(), QuantizationModifier(targets="Linear", scheme=scheme, ignore=["lm_head"])]

    return make


def _smoothquant(alpha: float) -> list[Any]:
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from llmcompressor.modifiers.transform.smoothquant import SmoothQuantModifier

    return [
        SmoothQuantModifier(smoothing_strength=alpha),
        QuantizationModifier(targets="Linear", scheme="W8A8", ignore=["lm_head"]),
    ]


WAYS: dict[str, Callable[[float], list[Any]]] = {
    "int8-weight": _plain("W8A16"),
    "int4-weight": _plain("W4A16"),
    "gptq": _gptq,
    "awq": _awq("W4A16"),
    "awq-asymmetric": _awq("W4A16_ASYM"),
    "smoothquant": _smoothquant,
}
"""Modifiers by name, for SmoothQuant's alpha."""


def dequantized(model: Any) -> dict[str, Any]:
    """Parameters of the model, weights of its quantized linear layers rounded and dequantized."""
    import torch
    from compressed_tensors.quantization.lifecycle.forward import fake_quantize

    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        scheme = getattr(module, "quantization_scheme", None)
        for part, value in module.named_parameters(recurse=False):
            if part not in ("weight", "bias"):
                continue
            own = value.detach().float()
            if part == "weight" and scheme is not None and scheme.weights is not None:
                scale, zero = module.weight_scale.float(), getattr(module, "weight_zero_point", None)
                own = fake_quantize(own, scale, zero, scheme.weights, getattr(module, "weight_g_idx", None))
            found[f"{name}.{part}"] = own.to(torch.float32).contiguous()
    if model.config.tie_word_embeddings:
        found.pop("lm_head.weight", None)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("way", choices=WAYS)
    parser.add_argument("model", type=Path)
    parser.add_argument("calibration", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--alpha", type=float, default=0.5)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    options = parser.parse_args()
    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    torch.set_num_threads(options.threads)
    if not torch.accelerator.is_available():
        # The peer's AWQ pins memory, which needs a GPU.
        setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)  # noqa: B010 - mypy refuses the assignment
    began = time.monotonic()
    model = AutoModelForCausalLM.from_pretrained(options.model, dtype=getattr(torch, options.dtype))
    loaded = time.monotonic()
    rows = [json.loads(line)["input_ids"] for line in options.calibration.read_text().splitlines()]
    data = Dataset.from_list([{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in rows])
    oneshot(
        model=model,
        dataset=data,
        recipe=WAYS[options.way](options.alpha),
        max_seq_length=max(map(len, rows)),
        num_calibration_samples=len(rows),
        shuffle_calibration_samples=False,
    )
    done = time.monotonic()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    options.out.mkdir(parents=True, exist_ok=True)
    save_file(dequantized(model), options.out / WEIGHTS, metadata={"format": "pt"})
    print(json.dumps({"load": loaded - began, "quantize": done - loaded, "peak": peak}), flush=True)


if __name__ == "__main__":
    main()
