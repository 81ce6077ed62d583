"""Trained tiny models with planted outliers, and the table of their losses: one row per case and scheme.

Each case is trained by `scripts/tiny_checkpoint` and kept in `--work`. Then a few channels behind every norm
are multiplied by 32, and the columns that read them divided by 32, which leaves the logits unchanged: tiny models have
no outliers of their own. Calibrated on the training text, measured on held-out text.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors.numpy import load_file, save_file

import recipes
from benchmarks.testbed.text import HELD_OUT, paragraphs
from benchmarks.tinyllama import ROOT, machine
from compiler.calibration import activations as calibrate
from compiler.calibration import feedback
from compiler.calibration import scales as scale
from compiler.calibration.samples import Samples
from compiler.decoder.rankfile import layout
from compiler.decoder.weights import StoredModel
from compiler.errors import NumericsError
from compiler.model.account import account
from compiler.model.dtypes import DTYPES
from compiler.model.lazy import RankPlan, whole
from compiler.model.roles import TensorId
from compiler.numerics.gate.measure import measure
from compiler.numerics.gate.sides import of_files
from compiler.numerics.gate.simulation import SchemeSide, split_of
from compiler.numerics.gate.verdict import judge
from compiler.pipeline import rank_files as convert
from compiler.quantization.groups import apply, groups, layer_factors
from compiler.quantization.schemes import FEEDBACK
from compiler.storage.checkpoints.checkpoint import Checkpoint, SourceTensor, open_checkpoint
from compiler.storage.checkpoints.header import read_header
from compiler.targets.inductor.schemes import kernels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from compiler.model.config import ModelConfig
    from compiler.model.lazy import Lazy
    from compiler.numerics.gate.verdict import Verdict
    from compiler.quantization.scaling import Scaling
    from compiler.quantization.schemes import Tolerance
    from compiler.targets.inductor.options import InductorOptions

OUTLIERS, TIMES = 4, 32.0
ROW, ROWS = 128, 32
"""Tokens of a sample, and samples, to calibrate with and to measure on."""


@dataclass(frozen=True)
class Planted:
    """Model with outliers. `maxima`: from its calibration on `text`; `held_out`: samples to measure on; `out`: output
    folder.
    """

    config: ModelConfig
    tensors: dict[TensorId, Lazy]
    checkpoint: Checkpoint
    maxima: dict[str, np.ndarray]
    text: Samples
    held_out: Samples
    out: Path

    @property
    def stored(self) -> StoredModel:
        return StoredModel(self.config, self.tensors, self.checkpoint)

    def scaled(self, scaling: Scaling) -> tuple[dict[TensorId, Lazy], Checkpoint]:
        """Tensors and checkpoint, with the scales for rank files."""
        model, scheme = (self.config, self.tensors, self.checkpoint), scaling.scheme
        own, files = None, [self.out / scale.RESULT]
        if scheme.search == FEEDBACK:
            work = self.out / "work"
            facts = feedback.compensate(*model, self.text, scheme, work=work, out=self.out, max_memory=8 << 30)
            print(f"error {facts['error'] / facts['error_of_nearest']:.3f} of that to nearest", file=sys.stderr)
            own, files = load_file(self.out / feedback.SCALES), [*files, self.out / feedback.WEIGHTS]
        scale.make_scales(*model, self.out, scaling=scaling, maxima=self.maxima, own=own)
        return scale.with_scales(self.tensors, self.checkpoint, *files)

    def on_inductor(self, scaling: Scaling, options: InductorOptions, dtype: str) -> Verdict:
        """Report of the gate on that target's rank files of tp 2. `dtype`: torch's name."""
        merged, sources = self.scaled(scaling)
        plans = layout.rank_plans(self.config, 2, merged, DTYPES[dtype], options.products)
        convert.convert(plans, sources, self.out)
        files = of_files(self.config, [self.out / plan.file for plan in plans], kernels(options))
        split = split_of(layout.layouts(self.config, 2))
        scheme = SchemeSide(StoredModel(self.config, merged, sources), scaling, dtype, split=split)
        return measure(self.stored, files, self.held_out, scheme=scheme)


HEADS = "stream | distance | least cosine | gate"
"""Heads of the cells of `said`."""


def said(verdict: Verdict, tolerance: Tolerance) -> str:
    """Cells at the end of a row: largest error of a part beside its stream, largest distance from its scheme, least
    cosine, and the gate's verdict.
    """
    worst = verdict.worst
    assert worst is not None
    away = max((part.distance or 0.0 for part in verdict.parts), default=0.0)
    least = min(verdict.parts, key=lambda part: part.cosine)
    return (
        f"{worst.stream:.3%} {worst.name} | {away:.3f} | {least.cosine:.5f} {least.name} | {judged(verdict, tolerance)}"
    )


def judged(verdict: Verdict, tolerance: Tolerance) -> str:
    """Word of the gate: `passes` or `refused`."""
    try:
        judge(verdict, tolerance)
    except NumericsError:
        return "refused"
    return "passes"


def table(description: str | None, cases: str, heads: str, cells: Callable[[Planted], Iterator[str]]) -> None:
    """Print the rows of the cases on the command line (default: `cases`). `cells`: cells of a row after its case."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--cases", default=cases)
    parser.add_argument("--steps", type=int, default=300)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    print(machine())
    print(f"| case | {heads} |\n{'|---' * (heads.count('|') + 2)}|")
    for case in options.cases.split(","):
        with planted(case, options.work, options.steps) as model:
            for row in cells(model):
                print(f"| {case} | {row} |", flush=True)


@contextmanager
def planted(case: str, work: Path, steps: int, size: Sequence[str] = ()) -> Iterator[Planted]:
    """The case, trained for `steps` steps in `work` unless it is there, with outliers. `size`: options of
    `scripts/tiny_checkpoint` for its size.
    """
    folder = work / f"{case.replace('/', '-')}-{steps}{''.join(size)}"
    if not (folder / "tokenizer.json").exists():
        command = [sys.executable, "-m", "tests.tiny_training", case, str(folder), "--train", "--steps", str(steps)]
        subprocess.run([*command, *size], check=True, stdout=sys.stderr, cwd=ROOT)
    texts = list(paragraphs())
    trained_on = _rows(folder / "tokenizer.json", [t for i, t in enumerate(texts) if i % HELD_OUT][:400])
    held_out = _rows(folder / "tokenizer.json", texts[::HELD_OUT])
    with tempfile.TemporaryDirectory(dir=work) as name:
        out = Path(name)
        config, tensors, checkpoint = _planted(folder, out)
        calibrate.calibrate(config, tensors, checkpoint, trained_on, work=out / "work", out=out)
        yield Planted(config, tensors, checkpoint, load_file(out / calibrate.RESULT), trained_on, held_out, out)


def _planted(folder: Path, out: Path) -> tuple[ModelConfig, dict[TensorId, Lazy], Checkpoint]:
    """Plant outliers in the model in `folder`: its canonical tensors become a float32 checkpoint in `out`."""
    source = open_checkpoint(folder)
    recipe = recipes.for_config(source.config)[1].resolve(source.config)
    config = recipe.model_config(source.config)
    tensors = account(recipe, config, source.tensors).tensors
    plan = RankPlan("canonical.safetensors", tuple((str(t), replace(lazy, dtype="F32")) for t, lazy in tensors.items()))
    convert.convert([plan], source, out)
    values = load_file(out / plan.file)
    changed = {tensor: values[str(tensor)].reshape(lazy.shape) for tensor, lazy in tensors.items()}
    rng = np.random.default_rng(0)
    for layer, kind in enumerate(config.layer_kinds):
        behind_norms = [group for group in groups(config, kind) if group.divides.endswith("norm")]
        scales = {group.name: np.ones(config.hidden, np.float32) for group in behind_norms}
        for s in scales.values():
            s[rng.choice(config.hidden, OUTLIERS, replace=False)] = 1 / TIMES
        factors, _ = layer_factors(config, behind_norms, scales)
        for tensor in tensors:
            if tensor.layer == layer and tensor.role in factors:
                factor = factors[tensor.role]
                changed[tensor] = apply(config, tensor.role, tensor.part, changed[tensor], factor)
    file = out / "model.safetensors"
    save_file({str(tensor): np.ascontiguousarray(array) for tensor, array in changed.items()}, file)
    header = read_header(file)
    sources = {n: SourceTensor(n, e.dtype, e.shape, file, e.offset, e.nbytes) for n, e in header.items()}
    lazies = {tensor: whole(str(tensor), array.shape, "F32") for tensor, array in changed.items()}
    return config, lazies, Checkpoint(folder, {}, sources)


def _rows(tokenizer: Path, texts: list[str]) -> Samples:
    from tokenizers import Tokenizer

    stream = [i for one in Tokenizer.from_file(str(tokenizer)).encode_batch(texts) for i in one.ids]
    ids = np.array(stream[: len(stream) // ROW * ROW], np.int64).reshape(-1, ROW)[:ROWS]
    return Samples(tuple(ids), "paragraphs", "sha256:0")
