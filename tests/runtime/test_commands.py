from __future__ import annotations

import io

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from compiler.runtime.commands import Allocate, Command, Connect, StepCommand, Swap, decode, encode


@st.composite
def steps(draw: st.DrawFn) -> StepCommand:
    batch, length, wanted = draw(st.integers(1, 4)), draw(st.integers(1, 9)), draw(st.integers(0, 3))
    numbers = np.random.default_rng(draw(st.integers(0, 1000)))
    # A broadcast array has strides of 0: what is sent must be its values.
    positions = np.broadcast_to(np.arange(length), (batch, length))
    tokens = numbers.integers(0, 1 << 40, (batch, length))
    return StepCommand(
        tokens,
        positions,
        numbers.integers(0, length, (batch, wanted)),
        draw(st.integers(1, 99)),
        draw(st.integers(0, 9)),
    )


COMMANDS = st.one_of(
    st.builds(Connect, st.integers(0, 65535)),
    st.builds(Allocate, st.integers(1, 99), st.integers(1, 1 << 20)),
    st.builds(Swap, st.integers(0, 99), st.integers(0, 99)),
    steps(),
)


def _same(a: Command | None, b: Command) -> bool:
    if isinstance(a, StepCommand) and isinstance(b, StepCommand):
        arrays = zip((a.token_ids, a.positions, a.last), (b.token_ids, b.positions, b.last), strict=True)
        return (a.used, a.first) == (b.used, b.first) and all(x.shape == y.shape and (x == y).all() for x, y in arrays)
    return a == b


@given(st.lists(COMMANDS, max_size=5))
def test_commands_arrive_as_they_were_sent(commands: list[Command]) -> None:
    stream = io.BytesIO(b"".join(encode(command) for command in commands))
    assert all(_same(decode(stream.read), command) for command in commands)
    assert decode(stream.read) is None


@given(COMMANDS, st.data())
def test_a_command_cut_short_is_the_end(command: Command, data: st.DataObject) -> None:
    whole = encode(command)
    cut = data.draw(st.integers(0, len(whole) - 1))
    assert decode(io.BytesIO(whole[:cut]).read) is None
