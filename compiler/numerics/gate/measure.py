"""Measure the cost of quantization on rank files.

    float     x ──attn──mlp──> x ──attn──mlp──> ... ──head──> p     the checkpoint, one layer at a time
                │    │         │    │
    scheme    attn mlp       attn mlp                             each part rounded as the scheme says (simulation.py)
    files     attn mlp       attn mlp                             each part on the float model's x: its own error
    files     y ──attn──mlp──> y ──attn──mlp──> ... ──head──> q     the whole on its own y: the total error

Every rank computes from its own file, with its names and scales; summands are added up and columns concatenated as by
separate ranks (`sides.py`). The layout is not consulted: a tensor that was packed, split or scaled wrongly stays wrong.
Each block also runs on the float model's input, so that an error shows in the block that causes it; both inputs run
together, so that weights are read once.

All sides compute in float32, so that rounding to the dtype is not part of the figures. Parts are compared over the
first `part_tokens` tokens, and in some layers: their errors are means over many elements, and need fewer tokens than
the predictions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from compiler.decoder.layer import added, attention
from compiler.decoder.layer import layer as run_layer
from compiler.numerics.gate.evidence import Evidence, TokenBlock
from compiler.numerics.gate.parts import Paired, PartSums
from compiler.numerics.gate.predictions import head_error, predicted
from compiler.numerics.gate.sides import Decoded, padded
from compiler.numerics.gate.verdict import HEAD, Verdict
from compiler.quantization.proof_levels import CPU

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from compiler.calibration.samples import Samples
    from compiler.decoder.layer import Blocks
    from compiler.decoder.weights import StoredModel
    from compiler.model.config import ModelConfig
    from compiler.model.roles import Block
    from compiler.numerics.gate.sides import Side
    from compiler.numerics.gate.simulation import SchemeSide
    from compiler.numerics.gate.verdict import PartError

    Ids = NDArray[np.int64]

VERSION = 4
LENGTH = 256
PART_TOKENS = 512


@dataclass(frozen=True)
class Extent:
    """Part of the work that is done. `part_tokens`: tokens over which parts are compared; `layers`: layers of these;
    None: all. `max_memory`: ceiling of the states and intermediate values, in bytes. `device`: of the float model.
    """

    part_tokens: int = PART_TOKENS
    layers: Collection[int] | None = None
    max_memory: int = 1 << 30
    device: str = CPU


ALL = Extent()


def measure(
    model: StoredModel,
    files: Side,
    samples: Samples,
    progress: Callable[[int, int], None] | None = None,
    *,
    scheme: SchemeSide | None = None,
    extent: Extent = ALL,
) -> Verdict:
    """Run `samples` through the checkpoint and through the rank files; `scheme`: expected error of the parts.

    `progress(tokens x layers done, total)`. Memory: one layer of each side, and the states of all samples.
    """
    import torch

    from compiler.decoder.kernels import PLAIN

    config = model.config
    whole = Decoded(config, [model], PLAIN, device=extent.device)
    with torch.no_grad():
        groups = [_Group.of(rows, whole, files, parts=parts) for rows, parts in _grouped(config, samples, extent)]
        parts: list[PartError] = []
        for layer in range(config.layers):
            compared = extent.layers is None or layer in extent.layers
            # A function call per layer frees its weights before the next layer is read.
            parts += _layer(config, (whole, files, scheme if compared else None), layer, groups, compared=compared)
            if progress is not None:
                progress(samples.tokens * (layer + 1), samples.tokens * config.layers)
        heads, blocks = (whole.head(), files.head()), list[TokenBlock]()
        if scheme is not None and (rounded := scheme.head()) is not None:
            states = [group.x[group.mask] for group in groups if group.parts]
            parts.append(head_error((*heads, rounded), states, config.vocab, scheme.floor))
        for group in groups:
            blocks += predicted(heads, group.rows, (group.x[group.mask], group.y[..., group.mask, :]))
        return Verdict(
            parts=tuple(parts),
            text=samples.text,
            evidence=Evidence(tuple(blocks)),
            part_tokens=sum(group.tokens for group in groups if group.parts),
            layers=tuple(sorted({int(part.name.split(".")[1]) for part in parts if part.name != HEAD})),
        )


@dataclass
class _Group:
    """Rows that run together. `x`, `y`: states of the float model and of the files; `mask` [rows, tokens]: tokens that
    are no padding. `parts`: whether parts are compared on these rows.
    """

    rows: Sequence[Ids]
    mask: Tensor
    x: Tensor
    y: Tensor
    parts: bool

    @classmethod
    def of(cls, rows: Sequence[Ids], whole: Side, files: Side, *, parts: bool) -> _Group:
        import torch

        ids = padded(rows)
        lengths = torch.tensor([len(row) for row in rows])
        mask = torch.arange(ids.shape[1]) < lengths[:, None]
        return cls(rows, mask, whole.embed(ids), files.embed(ids), parts)

    @property
    def tokens(self) -> int:
        return int(self.mask.sum())


def _grouped(config: ModelConfig, samples: Samples, extent: Extent) -> Iterator[tuple[list[Ids], bool]]:
    """Rows that fit into memory together, and whether parts are compared on them."""
    from compiler.calibration.activations import workspace

    longest = max(map(len, samples.ids))
    # Both inputs of the files run together.
    most = max(extent.max_memory // (2 * workspace(config, longest)), 1)
    first, tokens = 0, 0
    while first < len(samples.ids) and tokens < extent.part_tokens:
        tokens += len(samples.ids[first])
        first += 1
    for begin, end, parts in ((0, first, True), (first, len(samples.ids), False)):
        for at in range(begin, end, most):
            yield list(samples.ids[at : min(at + most, end)]), parts


def _layer(
    config: ModelConfig,
    sides: tuple[Side, Side, SchemeSide | None],
    layer: int,
    groups: Sequence[_Group],
    *,
    compared: bool,
) -> tuple[PartError, ...]:
    """Errors of one layer's parts where they are `compared`; advances the states of all groups by the layer."""
    true, found = sides[0].layer(layer), sides[1].layer(layer)
    scheme = sides[2].layer(layer) if sides[2] is not None else None
    floor = sides[2].floor if sides[2] is not None else None
    sums: dict[Block, PartSums] = {"attn": PartSums(config.hidden), "mlp": PartSums(config.hidden)}
    for group in groups:
        inputs: dict[Block, Tensor] = {}
        outputs: dict[Block, Tensor] = {}

        def seen(
            block: Block,
            x: Tensor,
            summand: Tensor,
            inputs: dict[Block, Tensor] = inputs,
            outputs: dict[Block, Tensor] = outputs,
        ) -> None:
            inputs[block], outputs[block] = x, added(config, true, block, true.sum(summand))

        if not (compared and group.parts):
            group.x, group.y = run_layer(config, true, group.x), run_layer(config, found, group.y)
            continue
        group.x = run_layer(config, true, group.x, seen)
        paired = Paired(found, inputs)
        group.y = run_layer(config, paired, group.y)
        for block, own in sums.items():
            x, expected = inputs[block], outputs[block]
            output = added(config, found, block, found.sum(paired.found[block]))
            copies = output.reshape(-1, *output.shape[-3:])[:, group.mask]
            other = None if scheme is None else _of_scheme(config, scheme, block, x)[group.mask]
            own.add(expected[group.mask], copies, (x + expected)[group.mask], other)
    if not compared:
        return ()
    return tuple(own.error(f"layers.{layer}.{block}", floor) for block, own in sums.items())


def _of_scheme(config: ModelConfig, scheme: Blocks, block: Block, x: Tensor) -> Tensor:
    """Output of a part as the scheme rounds it, from x [rows, tokens, hidden]."""
    summand = attention(config, scheme, x) if block == "attn" else scheme.mlp(x)
    return added(config, scheme, block, scheme.sum(summand))
