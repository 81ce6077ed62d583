"""One model on its ranks: rank 0 leads and computes its own share.

Engine (rank 0) --command--> Ranks --> follower: Share      every Share runs the same segments on its own weights;
       \\---------------------> Share                        sums over ranks synchronize them
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from compiler.decoder.layer import layer
from compiler.errors import RankError
from compiler.runtime.commands import Allocate, Command, StepCommand, Swap
from compiler.runtime.group import Alone, CollectiveError, Group

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from compiler.model.config import ModelConfig
    from compiler.runtime.ranks import Ranks

Logits = npt.NDArray[np.float32]

_ROOM_STEP = 16  # positions; with heads of 4 bytes or more, 64 bytes and so a cache line


@dataclass(frozen=True)
class Call:
    """One compiled segment bound to weights. `inputs`: weights, None at the `gaps` (index, name) of other inputs."""

    run: Callable[[list[Tensor]], Tensor]
    inputs: tuple[Tensor | None, ...]
    gaps: tuple[tuple[int, str], ...]

    def __call__(self, values: Mapping[str, Tensor]) -> Tensor:
        inputs: list[Any] = list(self.inputs)
        for index, name in self.gaps:
            inputs[index] = values[name]
        return self.run(inputs)


@dataclass(frozen=True)
class LayerCalls:
    """Segments of one layer by part (layer; or qkv where attention is split, attn, mlp), and its norms after sums over
    ranks.
    """

    calls: Mapping[str, Call]
    norms: Mapping[str, Tensor]


@dataclass(frozen=True)
class Program:
    """Segments of one phase, bound to the weights of this rank, and the norm of the embedding if any."""

    embed: Call
    layers: tuple[LayerCalls, ...]
    head: Call
    norms: Mapping[str, Tensor]


def _summed(group: Group, summand: Tensor) -> Tensor:
    group.all_reduce(summand)
    return summand


class _Layer:
    """One layer on this rank, in parts, by compiled segments (`compiler.decoder.layer.Blocks`)."""

    def __init__(self, config: ModelConfig, layer: LayerCalls, values: dict[str, Tensor], group: Group) -> None:
        self._config, self._layer, self._values, self._group = config, layer, values, group

    def qkv(self, x: Tensor, /) -> Tensor:
        return self._run("qkv", x=x)

    def mean_squares(self, qkv: Tensor, /) -> Tensor:
        from compiler.decoder.decoder import mean_squares

        return mean_squares(self._config, qkv, self._group.size)

    def attn(self, x: Tensor, mean_squares: Tensor | None = None, /) -> Tensor:
        if mean_squares is None:
            return self._run("attn", x=x)
        return self._run("attn", qkv=x, mean_squares=mean_squares)

    def mlp(self, x: Tensor, /) -> Tensor:
        return self._run("mlp", x=x)

    def sum(self, summand: Tensor, /) -> Tensor:
        return _summed(self._group, summand)

    def norm(self, role: str, y: Tensor, /) -> Tensor:
        from compiler.decoder.decoder import norm

        return norm(self._config, role, y, self._layer.norms)

    def _run(self, part: str, **values: Tensor) -> Tensor:
        self._values |= values
        return self._layer.calls[part](self._values)


class Share:
    """Share of one rank in a model: bound segments and caches. `programs(batch, length)`: segments for such a step.

    `constants`: inputs of the rank (first, vocab_offset, alibi.slopes). `caches`: heads and elements of a head, by
    name. `dtype`: of the model; `cached`: of its caches.
    """

    def __init__(
        self,
        config: ModelConfig,
        programs: Callable[[int, int], Program],
        constants: Mapping[str, Tensor],
        *,
        caches: Mapping[str, tuple[int, int]],
        dtype: torch.dtype,
        cached: torch.dtype,
        device: str,
    ) -> None:
        self.group: Group = Alone()
        self._config, self._programs, self._constants = config, programs, dict(constants)
        self._shapes, self._dtype, self._cached, self._device = dict(caches), dtype, cached, device
        self._caches: list[dict[str, Tensor]] = []
        self._key_positions: Tensor | None = None

    def allocate(self, batch: int, length: int) -> None:
        """Allocate caches for `batch` rows of `length` positions, and rotary tables of this length.

        The content of the earlier caches is kept, the rest is zero. One layer at a time has both.
        """
        import torch

        from compiler.decoder.attention import rounded_key_bias
        from compiler.decoder.rotary import named_tables

        # Compiled segments need a cache longer than the part that they read. Rows start on whole cache lines.
        room = -(-(length + 1) // _ROOM_STEP) * _ROOM_STEP

        def grown(earlier: Tensor | None, heads: int, dim: int) -> Tensor:
            cache = torch.zeros((batch, room, heads, dim), dtype=self._cached, device=self._device)
            if earlier is not None:
                cache[: earlier.shape[0], : earlier.shape[1]] = earlier
            return cache

        if not self._caches:
            self._caches = [{} for _ in range(self._config.layers)]
        for caches in self._caches:
            for name, shape in self._shapes.items():
                caches[name] = grown(caches.get(name), *shape)
        self._key_positions = torch.arange(room, device=self._device)
        tables = named_tables(self._config, room, self._dtype)
        self._constants |= {name: table.to(self._device) for name, table in tables.items()}
        if self._config.alibi == "rounded_keys":
            biases = rounded_key_bias(self._constants["alibi.slopes"], room, self._config.head_dim)
            self._constants["alibi.key_bias"] = biases

    def swap(self, source: int, target: int) -> None:
        """Exchange two rows of the caches."""
        for cache in (cache for caches in self._caches for cache in caches.values()):
            kept = cache[target].clone()
            cache[target].copy_(cache[source])
            cache[source].copy_(kept)

    def step(self, step: StepCommand) -> Logits | None:
        """Run a step; return on rank 0 the logits of the tokens at `last`, float32 [batch, wanted, vocab]."""
        import torch

        from compiler.decoder.decoder import embedded

        assert self._key_positions is not None, "a step needs caches"
        batch, length = step.token_ids.shape
        program = self._programs(batch, length)
        values: dict[str, Tensor] = {
            **self._constants,
            "token_ids": self._tensor(step.token_ids),
            "positions": self._tensor(step.positions),
            "key_positions": self._key_positions[: step.used],
        }
        with torch.no_grad():
            x = embedded(self._config, _summed(self.group, program.embed(values)), program.norms)
            for calls, caches in zip(program.layers, self._caches, strict=True):
                values |= {name: cache[step.first :] for name, cache in caches.items()} if step.first else caches
                x = self._after(calls, values, x)
            if not step.last.shape[1]:
                self.group.finish(x)
                return None
            values["x"], values["last"] = x, self._tensor(step.last)
            parts = self.group.gather(program.head(values))
            if not parts:
                return None
            whole = torch.cat(parts, dim=-1) if len(parts) > 1 else parts[0]
            logits: Logits = self.group.finish(whole)[..., : self._config.vocab].numpy()
            return logits

    def _after(self, layer_calls: LayerCalls, values: dict[str, Tensor], x: Tensor) -> Tensor:
        """Residual stream after a layer."""
        whole = layer_calls.calls.get("layer")
        if whole is None:
            return layer(self._config, _Layer(self._config, layer_calls, values, self.group), x)
        values["x"] = x
        return whole(values)

    def _tensor(self, ids: npt.NDArray[np.int64]) -> Tensor:
        import torch

        # Compiled segments assume row-major inputs.
        return torch.from_numpy(np.array(ids, order="C")).to(self._device)


class Engine:
    """All ranks of a model. After an error they are out of step: the engine closes, and later calls report it."""

    def __init__(self, share: Share, ranks: Ranks | None) -> None:
        self._share, self._ranks = share, ranks
        self._closed = ""
        self._room = (0, 0)

    def make_room(self, batch: int, length: int) -> None:
        """Make caches of at least `batch` rows of `length` positions. Their content is kept."""
        if batch <= self._room[0] and length <= self._room[1]:
            return
        self._room = (max(batch, self._room[0]), max(length, self._room[1]))
        with self._together(Allocate(*self._room)):
            self._share.allocate(*self._room)

    def step(self, step: StepCommand) -> Logits | None:
        """Logits [batch, wanted, vocab] of the tokens at `step.last`; None where none are wanted.

        Raises:
            RankError: a rank ended or hangs.
        """
        with self._together(step):
            return self._share.step(step)

    def swap(self, source: int, target: int) -> None:
        """Exchange two rows of the caches."""
        with self._together(Swap(source, target)):
            self._share.swap(source, target)

    def close(self) -> None:
        if self._ranks is not None and not self._closed:
            self._ranks.close()
        self._closed = self._closed or "it was closed"

    @contextmanager
    def _together(self, command: Command) -> Iterator[None]:
        if self._closed:
            raise RankError(f"this model is closed: {self._closed}", hint="load it again")
        try:
            if self._ranks is not None:
                self._ranks.check()
                self._ranks.send(command)
            yield
        except CollectiveError as error:
            assert self._ranks is not None
            raised = self._ranks.explain(str(error))
            self._closed = raised.message
            raise raised from error
        except RankError as error:
            self._closed = error.message
            raise
        except BaseException as error:
            self._closed = f"it failed with {type(error).__name__}"
            if self._ranks is not None:
                self._ranks.kill()
            raise
