"""Options of target `neuron`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Self

from compiler.targets.options import TargetOptions, option

if TYPE_CHECKING:
    from compiler.targets.neuron.heads import Strategy


@dataclass(frozen=True)
class NeuronOptions(TargetOptions):
    """Options of target `neuron`. `group_query_attention`: a strategy of heads.py, "" = the first that works. Lists are
    numbers with commas, "" = the rule of buckets.py, or the batch alone.

    `instance`: full name of the instance type, "" = unknown; `weights`: "int8", or "" for the dtype; both derived.
    """

    group_query_attention: str = option(
        "",
        "shard-over-heads, replicated-heads, shard-over-batch or all-gather-heads [default: the first that works]",
    )
    shard_over_sequence: bool = option(
        default=False, help="Split the KV cache over the positions.", flags=("--shard-over-sequence",)
    )
    buckets: str = option("", "Positions of decode graphs [default: 128, doubled]", metavar="N,N,...")
    context_buckets: str = option("", "Tokens of prompt graphs; 0: none [default: half]", metavar="N,N,...")
    batch_sizes: str = option("", "Rows of further decode graphs, besides `--batch`.", metavar="N,N,...")
    continuous_batching: bool = option(
        default=False, help="Rows of a batch start and end apart.", flags=("--continuous-batching",)
    )
    neuron_driver: str = option("auto", "auto, graph, optimum, nxdi or tnx: what compiles it [default: auto]")
    presharded: bool = option(
        default=False, help="Write transformers-neuronx's presharded weights too.", flags=("--presharded",)
    )
    image: str = option("", "Neuron image that will serve it; implies the driver.")
    instance: str = ""
    weights: str = ""

    @property
    def default_batch(self) -> int | None:
        """One row: graphs are compiled for each batch size."""
        return 1

    @property
    def strategy(self) -> Strategy | None:
        """Requested strategy; None: the first that works. Raises UsageError for an unknown name."""
        from compiler.errors import UsageError
        from compiler.targets.neuron.heads import STRATEGIES

        wanted = self.group_query_attention
        found = next((name for name in STRATEGIES if name == wanted), None)
        if wanted and found is None:
            raise UsageError(
                f"`--group-query-attention` is one of {', '.join(STRATEGIES)}; found `{wanted}`",
                hint="leave it out for the first that works",
            )
        return found

    def on_instance(self, name: str | None) -> Self:
        """These options for an instance type."""
        from compiler.lmi.instances import full_name

        return replace(self, instance=full_name(name) if name else "")


def parse_lengths(flag: str, text: str) -> tuple[int, ...] | None:
    """Numbers of a list such as `128,512`; None for "". Raises UsageError."""
    from compiler.errors import UsageError

    if not text:
        return None
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise UsageError(f"`{flag}` is a list of numbers; found `{text}`", hint=f"`{flag} 128,512`") from None


OPTIONS = NeuronOptions
PLAIN = NeuronOptions()
