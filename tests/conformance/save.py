"""Program for the Python of another version of transformers: `python save.py JOBS TOKENS`. It imports nothing of ours.

JOBS is a JSON file with a list of {folder, settings, absent, noise, seed}. For each, a random float32 model is saved
into the folder, its config.json changed, the model loaded again and run: logits.npy [tokens, vocab], ids.npy and
noise.npy. A config that this version cannot save or load leaves error.txt instead.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any


def main() -> None:
    import torch
    import transformers
    from transformers.utils import logging

    logging.set_verbosity_error()
    torch.set_num_threads(1)
    for job in json.loads(Path(sys.argv[1]).read_text()):
        folder = Path(job["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _save(job, folder, int(transformers.__version__.split(".")[0]))
            _run(folder, int(sys.argv[2]), job["seed"])
        except Exception as error:  # noqa: BLE001  # whatever this version raises, the config is not one of its own
            (folder / "error.txt").write_text(f"{type(error).__name__}: {error}"[:500])


def _save(job: dict[str, Any], folder: Path, version: int) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    settings = job["settings"] if version >= 5 else _older(job["settings"])
    config = AutoConfig.for_model(**settings)
    generator = torch.Generator().manual_seed(job["seed"])
    model = AutoModelForCausalLM.from_config(config, torch_dtype=torch.float32)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            scale = 0.3 if parameter.ndim < 2 else 1.2 / parameter.shape[-1] ** 0.5
            base = 1.0 if "norm" in name.lower() or "ln_" in name else 0.0
            parameter.copy_(noise * scale + (base if parameter.ndim == 1 and name.endswith("weight") else 0.0))
    model.save_pretrained(folder)
    path = folder / "config.json"
    written = {**job["noise"], **json.loads(path.read_text())}
    path.write_text(json.dumps({key: value for key, value in written.items() if key not in job["absent"]}, indent=2))


def _older(settings: dict[str, Any]) -> dict[str, Any]:
    """The same config as transformers 4 takes it."""
    found = dict(settings)
    section = dict(found.pop("rope_parameters", None) or {})
    for key in ("rope_theta", "partial_rotary_factor"):
        if key in section:
            found[key] = section.pop(key)
    if section.get("rope_type", "default") != "default":
        found["rope_scaling"] = section
        if section["rope_type"] == "longrope" and "original_max_position_embeddings" in section:
            found["original_max_position_embeddings"] = section["original_max_position_embeddings"]
    return found


def _run(folder: Path, tokens: int, seed: int) -> None:
    """Logits, and how far those of the two implementations of attention are apart, in units of the largest logit."""
    import numpy as np
    import torch

    settings = json.loads((folder / "config.json").read_text())
    ids = torch.randint(0, settings["vocab_size"], (1, tokens), generator=torch.Generator().manual_seed(seed))
    logits = _logits(folder, ids, "sdpa" if settings.get("alibi") else "eager")  # eager Falcon 5.23 adds ALiBi twice
    try:
        other = _logits(folder, ids, "sdpa")
    except (ImportError, ValueError):  # the class has no other implementation
        other = logits
    if not np.isfinite(logits).all():
        raise ValueError("logits are not finite")
    np.save(folder / "logits.npy", logits)
    np.save(folder / "ids.npy", ids.numpy())
    np.save(folder / "noise.npy", np.abs(logits - other).max() / np.abs(logits).max())


def _logits(folder: Path, ids: Any, attention: str) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    loaded: Any = AutoModelForCausalLM.from_pretrained(
        folder, torch_dtype=torch.float32, attn_implementation=attention, output_loading_info=True
    )
    model, info = loaded
    if info["missing_keys"] or info.get("mismatched_keys"):
        raise ValueError(f"weights missing or of another shape: {sorted(info['missing_keys'])[:3]}")
    with torch.no_grad():
        return model.eval()(ids).logits[0].float().numpy()


if __name__ == "__main__":
    main()
