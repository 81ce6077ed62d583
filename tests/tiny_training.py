"""What `scripts/tiny_checkpoint` runs: a tiny checkpoint with a learnt tokenizer, random or trained a minute.

The trained model writes sentences in the manner of Python's documentation and ends them: every paragraph it
learns from stands between `<s>` and `</s>`.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import recipes
from benchmarks.testbed.text import HELD_OUT, paragraphs, save_tokenizer, train_tokenizer
from compiler.model.places import Default, Half, Place
from tests import reference
from tests.tiny import TINY, model_config, recipe_of, write_weights

if TYPE_CHECKING:
    import torch
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

    from tests.reference.module import OfReference

VOCAB = 1024
ROW = 128  # tokens of one training example
ROWS = 8  # training examples a step
PEAK_RATE = 3e-3

POSITIONS = 512
_WINDOW = 64
_SPECIAL_IDS = {"bos_token_id": VOCAB - 3, "eos_token_id": VOCAB - 2, "pad_token_id": VOCAB - 1}


@dataclass(frozen=True)
class Perplexity:
    """Perplexity per token on held-out paragraphs, before and after training."""

    before: float
    after: float


@dataclass(frozen=True)
class Size:
    """Size of a trained model: a dense mlp is three times as wide as `width`, an expert as wide."""

    layers: int = 4
    width: int = 128

    @property
    def rate(self) -> float:
        """Peak learning rate, which wide models take in inverse proportion to their width."""
        return PEAK_RATE * min(128 / self.width, 1.0)


TRAINED = Size()


def sized(case: str, size: Size = TRAINED) -> dict[str, Any]:
    """The configuration of a case of `tests.tiny`, with its traits and head counts, in the trained size."""
    hf = {**TINY[case], **_SPECIAL_IDS}
    recipe, tiny = recipes.load(recipe_of(case)).resolve(hf), model_config(case)
    sizes = {
        "vocab": VOCAB,
        "layers": size.layers,
        "hidden": -(-size.width // tiny.heads) * tiny.heads,
        "max_positions": POSITIONS,
        "ffn": size.width if tiny.experts and tiny.moe_ffn == tiny.ffn else 3 * size.width,
    }
    for name, length in sizes.items():
        hf |= _spelled(getattr(recipe.config, name), length)
    if isinstance(hf.get("layer_types"), list):
        hf["layer_types"] = [hf["layer_types"][layer % len(hf["layer_types"])] for layer in range(size.layers)]
    if hf.get("sliding_window"):
        hf["sliding_window"] = _WINDOW
    if "max_window_layers" in hf:
        hf["max_window_layers"] = min(hf["max_window_layers"], size.layers)
    return hf


def _spelled(place: Place, size: int) -> dict[str, int]:
    """The key of config.json at `place`, and what has to stand there to mean `size`."""
    match place:
        case Half(path):
            return {path: 2 * size}
        case Default(path, _, _) | str(path):
            return {path: size} if path else {}  # without a path, it follows from another size
        case (first, *_):
            return _spelled(first, size)
    raise AssertionError(f"a size is not read from {place}")


def write_random(case: str, folder: Path, seed: int = 0) -> None:
    """A checkpoint in the trained size with random bfloat16 weights, and the tokenizer of the trained one."""
    write_weights(case, sized(case), folder, seed, "bfloat16")
    save_tokenizer(train_tokenizer(paragraphs(), VOCAB), folder, max_length=POSITIONS)


def write_trained(case: str, folder: Path, steps: int, seed: int = 0, size: Size = TRAINED) -> Perplexity:
    """Train for `steps` steps, write the bfloat16 checkpoint, say what was learnt.

    The same arguments on the same Python, torch and number of threads give the same checkpoint.
    """
    import torch

    torch.manual_seed(seed)
    texts = paragraphs()
    tokenizer = train_tokenizer(texts, VOCAB)
    trained_on = [text for i, text in enumerate(texts) if i % HELD_OUT]
    held_out = _stream(tokenizer, texts[::HELD_OUT])
    model = _model(case, size)
    before = perplexity(model, held_out)
    _train(model, _stream(tokenizer, trained_on), steps, seed, size.rate)
    model.bfloat16()
    model.save_pretrained(folder)
    after = perplexity(model.float(), held_out)  # of what was saved
    save_tokenizer(tokenizer, folder, max_length=POSITIONS)
    return Perplexity(before, after)


def _model(case: str, size: Size) -> PreTrainedModel | OfReference:
    """Untrained, float32."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    own = reference.load(recipe_of(case))
    if own is not None:
        from tests.reference.module import OfReference

        return OfReference(own, sized(case, size))
    config = AutoConfig.for_model(**sized(case, size))
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    return model


def perplexity(model: PreTrainedModel | OfReference, stream: torch.Tensor) -> float:
    """Perplexity of `model` on a stream of token ids int64 [tokens], read in rows of `ROW` tokens."""
    import torch

    rows = stream[: len(stream) // ROW * ROW].view(-1, ROW)
    model.eval()
    with torch.no_grad():
        losses = [float(_loss(model, batch)) * len(batch) for batch in rows.split(32)]
    return math.exp(sum(losses) / len(rows))


def _stream(tokenizer: Tokenizer, texts: Sequence[str]) -> torch.Tensor:
    import torch

    bos, eos = _SPECIAL_IDS["bos_token_id"], _SPECIAL_IDS["eos_token_id"]
    encoded = tokenizer.encode_batch(list(texts), add_special_tokens=False)
    return torch.tensor([token for piece in encoded for token in (bos, *piece.ids, eos)])


def _loss(model: PreTrainedModel | OfReference, rows: torch.Tensor) -> torch.Tensor:
    """Mean cross entropy of every next token in `rows` int64 [rows, tokens]."""
    from torch.nn.functional import cross_entropy

    logits = model(rows[:, :-1]).logits
    return cross_entropy(logits.flatten(0, 1).float(), rows[:, 1:].flatten())


def _train(model: PreTrainedModel | OfReference, stream: torch.Tensor, steps: int, seed: int, peak: float) -> None:
    import torch

    generator = torch.Generator().manual_seed(seed)
    # A row begins where a paragraph begins: a prompt at the first position is then what training has met.
    starts = (stream == _SPECIAL_IDS["bos_token_id"]).nonzero().flatten()
    starts = starts[starts <= len(stream) - ROW]
    optimizer = torch.optim.AdamW(model.parameters(), lr=peak, betas=(0.9, 0.98), weight_decay=0.05)
    model.train()
    begun = time.monotonic()
    for step in range(1, steps + 1):
        chosen = starts[torch.randint(len(starts), (ROWS,), generator=generator)]
        for group in optimizer.param_groups:
            group["lr"] = _rate(step, steps, peak)
        loss = _loss(model, stream[chosen[:, None] + torch.arange(ROW)])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if step % 50 == 0 or step == steps:
            seconds = time.monotonic() - begun
            print(
                f"step {step}/{steps}  loss {loss.item():.3f}  {step * ROWS * ROW / seconds:.0f} tokens/s  "
                f"{seconds / step * (steps - step):.0f} s left",
                file=sys.stderr,
            )


def _rate(step: int, steps: int, peak: float) -> float:
    """Learning rate of a step: linear warm-up over a tenth of the steps, then a cosine down to a tenth."""
    warm = max(1, steps // 10)
    if step <= warm:
        return peak * step / warm
    return peak * (0.55 + 0.45 * math.cos(math.pi * (step - warm) / max(1, steps - warm)))


def main(arguments: list[str] | None = None) -> None:
    """The command line of `scripts/tiny_checkpoint`."""
    parser = argparse.ArgumentParser(
        prog="scripts/tiny_checkpoint", description="Write a tiny Hugging Face checkpoint with a tokenizer."
    )
    parser.add_argument("arch", choices=sorted(TINY), metavar="ARCH", help=", ".join(sorted(TINY)))
    parser.add_argument("folder", type=Path, metavar="DIR", help="where the checkpoint is written")
    parser.add_argument("--train", action="store_true", help="train for about a minute on two cores")
    parser.add_argument("--steps", type=int, default=900, help="training steps (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="(default: %(default)s)")
    parser.add_argument("--layers", type=int, default=TRAINED.layers, help="of a trained model (default: %(default)s)")
    parser.add_argument("--width", type=int, default=TRAINED.width, help="of a trained model (default: %(default)s)")
    chosen = parser.parse_args(arguments)

    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    if chosen.train:
        size = Size(chosen.layers, chosen.width)
        learnt = write_trained(chosen.arch, chosen.folder, chosen.steps, chosen.seed, size)
        print(f"held-out perplexity: {learnt.before:.1f} before, {learnt.after:.1f} after training")
    else:
        write_random(chosen.arch, chosen.folder, chosen.seed)
    print(f"wrote {chosen.folder}")


if __name__ == "__main__":
    main()
