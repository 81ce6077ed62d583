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
from math import inf
from typing import TYPE_CHECKING

import numpy as np

from compiler.decoder.layer import Blocks, added, attention
from compiler.decoder.layer import layer as run_layer
from compiler.numerics.gate.evidence import Evidence, TokenBlock, blocks_of
from compiler.numerics.gate.sides import Decoded, padded
from compiler.numerics.gate.verdict import PartError, Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

    from numpy.typing import NDArray
    from torch import Tensor

    from compiler.calibration.samples import Samples
    from compiler.decoder.weights import StoredModel
    from compiler.model.config import ModelConfig
    from compiler.model.roles import Block
    from compiler.numerics.gate.sides import Side
    from compiler.numerics.gate.simulation import SchemeSide

    Ids = NDArray[np.int64]

VERSION = 4
LENGTH = 256
PART_TOKENS = 512
_HEAD_TOKENS = 256
"""Tokens whose logits are in memory at a time."""
_SLICE = 32
"""Tokens whose probabilities are compared at a time."""


@dataclass(frozen=True)
class Extent:
    """Part of the work that is done. `part_tokens`: tokens over which parts are compared; `layers`: layers of these;
    None: all. `max_memory`: ceiling of the states and intermediate values, in bytes.
    """

    part_tokens: int = PART_TOKENS
    layers: Collection[int] | None = None
    max_memory: int = 1 << 30


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
    whole = Decoded(config, [model], PLAIN)
    with torch.no_grad():
        groups = [_Group.of(rows, whole, files, parts=parts) for rows, parts in _grouped(config, samples, extent)]
        parts: list[PartError] = []
        for layer in range(config.layers):
            compared = extent.layers is None or layer in extent.layers
            # A function call per layer frees its weights before the next layer is read.
            parts += _layer(config, (whole, files, scheme if compared else None), layer, groups, compared=compared)
            if progress is not None:
                progress(samples.tokens * (layer + 1), samples.tokens * config.layers)
        return Verdict(
            parts=tuple(parts),
            text=samples.text,
            evidence=Evidence(tuple(_blocks(whole, files, groups))),
            part_tokens=sum(group.tokens for group in groups if group.parts),
            layers=tuple(sorted({int(part.name.split(".")[1]) for part in parts})),
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


class _Sums:
    """Sums over tokens of products of the expected, the scheme's and the found output of a part."""

    def __init__(self, hidden: int) -> None:
        self._expected = self._found = self._both = self._stream = 0.0
        self._tokens = 0
        self._off, self._scheme, self._apart = np.zeros(hidden), np.zeros(hidden), np.zeros(hidden)

    def add(self, expected: Tensor, found: Tensor, stream: Tensor, scheme: Tensor | None) -> None:
        """Add float32 [tokens, hidden], `found` [copies, tokens, hidden]: every copy counts. `stream`: the residual
        stream behind the part.
        """
        a = expected.double()
        for copy in found:
            b = copy.double()
            off = (a - b).square()
            self._expected += float(a.square().sum())
            self._found += float(b.square().sum())
            self._both += float((a * b).sum())
            self._off += off.sum(0).numpy()
            self._stream += float((off.sum(-1) / stream.double().square().sum(-1).clamp_min(1e-60)).sum())
            self._tokens += len(a)
            if scheme is not None:
                s = scheme.double()
                self._scheme += (s - a).square().sum(0).numpy()
                self._apart += (s - b).square().sum(0).numpy()

    def error(self, name: str, floor: float | None) -> PartError:
        """Error of the part `name`. `floor`: error of rounding to the files' dtype, a share of the expected output;
        None without a scheme.
        """
        if not np.isfinite(self._off).all():
            first = int(np.argmax(~np.isfinite(self._off)))
            away = None if floor is None else inf
            return PartError(name, inf, 0.0, first, inf, away, away, first)
        norm = max(self._expected, 1e-60) ** 0.5
        cosine = self._both / (norm * max(self._found, 1e-60) ** 0.5)
        # Where the expected output is all zeros, so must be the found one.
        silent = self._expected == self._found == 0
        distance = channel = None
        apart = 0
        if floor is not None:
            own = self._scheme.sum() + floor**2 * self._expected
            distance = float((self._apart.sum() / max(own, 1e-60)) ** 0.5)
            # A channel whose rounding happens to cancel has no error of its own: that of the others counts, too.
            ratios = self._apart / np.maximum(self._scheme + own / len(self._scheme), 1e-60)
            apart, channel = int(ratios.argmax()), float(ratios.max() ** 0.5)
        return PartError(
            name,
            float(self._off.sum() ** 0.5 / norm),
            1.0 if silent else cosine,
            int(self._off.argmax()),
            float((self._stream / max(self._tokens, 1)) ** 0.5),
            distance,
            channel,
            apart,
        )


class _Paired(Blocks):
    """Layer that runs on its own input and on the float model's, `inputs` by block, together; `found`: outputs of the
    latter.
    """

    def __init__(self, inner: Blocks, inputs: dict[Block, Tensor]) -> None:
        self._inner, self._inputs = inner, inputs
        self.found: dict[Block, Tensor] = {}

    def qkv(self, x: Tensor, /) -> Tensor:
        return self._inner.qkv(self._both("attn", x))

    def mean_squares(self, qkv: Tensor, /) -> Tensor:
        return self._inner.mean_squares(qkv)

    def attn(self, x: Tensor, mean_squares: Tensor | None = None, /) -> Tensor:
        if mean_squares is None:
            return self._split("attn", self._inner.attn(self._both("attn", x)))
        return self._split("attn", self._inner.attn(x, mean_squares))

    def mlp(self, x: Tensor, /) -> Tensor:
        return self._split("mlp", self._inner.mlp(self._both("mlp", x)))

    def sum(self, summand: Tensor, /) -> Tensor:
        return self._inner.sum(summand)

    def norm(self, role: str, y: Tensor, /) -> Tensor:
        return self._inner.norm(role, y)

    def _both(self, block: Block, y: Tensor) -> Tensor:
        import torch

        x = self._inputs[block]
        return torch.cat([x.expand(*y.shape[:-3], *x.shape), y], -3)

    def _split(self, block: Block, summand: Tensor) -> Tensor:
        count = len(self._inputs[block])
        self.found[block] = summand[..., :count, :, :]
        return summand[..., count:, :, :]


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
    sums: dict[Block, _Sums] = {"attn": _Sums(config.hidden), "mlp": _Sums(config.hidden)}
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
        paired = _Paired(found, inputs)
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


def _blocks(whole: Side, files: Side, groups: Sequence[_Group]) -> Iterator[TokenBlock]:
    """Evidence of all rows."""
    before, after = whole.head(), files.head()
    for group in groups:
        x, y = group.x[group.mask], group.y[..., group.mask, :]
        ids = np.concatenate(group.rows)
        kl, agree = np.empty(len(ids)), np.empty(len(ids), bool)
        losses = {side: np.empty(len(ids)) for side in ("float", "files")}
        for begin in range(0, len(ids), _HEAD_TOKENS):
            own = slice(begin, begin + _HEAD_TOKENS)
            p, q = before(x[own][None]), after(y[..., own, :].unsqueeze(-3))
            # The last token of a row has no next one; its loss is left out below.
            _compare(p, q, np.append(ids, 0)[begin + 1 : begin + 1 + len(p)], kl[own], agree[own], losses, begin)
        begin = 0
        for row in group.rows:
            end = begin + len(row)
            own_losses = {side: of[begin : end - 1].tolist() for side, of in losses.items()}
            yield from blocks_of(kl[begin:end].tolist(), agree[begin:end].tolist(), own_losses)
            begin = end


def _compare(
    p: Tensor,
    q: Tensor,
    following: Ids,
    kl: NDArray[np.float64],
    agree: NDArray[np.bool_],
    losses: dict[str, NDArray[np.float64]],
    place: int,
) -> None:
    """Write divergence, agreement and losses of logits p and q [tokens, vocab] for the next tokens `following`; losses
    from index `place` on.
    """
    import torch

    for at in range(0, len(p), _SLICE):
        own = slice(at, at + _SLICE)
        a, b = p[own].log_softmax(-1), q[own].log_softmax(-1)
        kl[own] = (a.exp() * (a - b)).sum(-1).double().numpy()
        agree[own] = (a.argmax(-1) == b.argmax(-1)).numpy()
        targets = torch.from_numpy(following[own])[:, None]
        for side, log in (("float", a), ("files", b)):
            losses[side][place + at : place + at + len(a)] = -log.gather(1, targets)[:, 0].double().numpy()
