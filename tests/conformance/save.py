"""Program for the Python of another version of transformers: `python save.py JOBS TOKENS`. It imports nothing of ours.

JOBS is a JSON file with a list of {folder, settings, absent, noise, seed}. For each, a random float32 model is saved
into the folder, its config.json changed, the model loaded again and run: ids.npy, logits.npy [tokens, vocab] float32
and exact.npy, the same in float64. A config that this version cannot save or load leaves error.txt instead.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch


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
    import numpy as np
    import torch

    settings = json.loads((folder / "config.json").read_text())
    ids = torch.randint(0, settings["vocab_size"], (1, tokens), generator=torch.Generator().manual_seed(seed))
    np.save(folder / "ids.npy", ids.numpy())
    np.save(folder / "logits.npy", logits_of(folder, ids))
    np.save(folder / "exact.npy", logits_of(folder, ids, exact=True))


def logits_of(folder: Path, ids: Any, *, exact: bool = False) -> Any:
    """Logits [tokens, vocab] of the checkpoint in `folder` for `ids` int64 [1, tokens], an array of float32; `exact`:
    of float64. Raises ValueError for missing weights and logits that are not finite.
    """
    import numpy as np
    import torch
    import transformers

    settings = json.loads((folder / "config.json").read_text())
    grouped = exact and int(transformers.__version__.split(".")[0]) >= 5  # its default multiplies no float64
    loaded: Any = transformers.AutoModelForCausalLM.from_pretrained(
        folder,
        torch_dtype=torch.float64 if exact else torch.float32,
        attn_implementation="sdpa" if settings.get("alibi") else "eager",  # eager Falcon 5.23 adds ALiBi twice
        output_loading_info=True,
        **({"experts_implementation": "eager"} if grouped else {}),
    )
    model, info = loaded
    if info["missing_keys"] or info.get("mismatched_keys"):
        raise ValueError(f"weights missing or of another shape: {sorted(info['missing_keys'])[:3]}")
    with torch.no_grad(), _float64() if exact else nullcontext():
        found = model.eval()(ids).logits[0].numpy()
    if not np.isfinite(found).all():
        raise ValueError("logits are not finite")
    return found


@contextmanager
def _float64() -> Iterator[None]:
    """torch whose float32 is float64: transformers computes norms, softmax and rotary positions in `torch.float32`,
    whatever the dtype of the model.
    """
    import torch

    double, default = torch.float64, torch.get_default_dtype()
    torch.set_default_dtype(double)
    try:
        with (
            patch.multiple(torch, float32=double, float=double),
            patch.object(torch.Tensor, "float", torch.Tensor.double),
        ):
            yield
    finally:
        torch.set_default_dtype(default)


if __name__ == "__main__":
    main()
