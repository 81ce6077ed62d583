"""Execution of graphs on this machine's processor: one virtual device for each rank, as one program with replicas.

The devices exist if XLA_FLAGS had --xla_force_host_platform_device_count=RANKS before jax was imported; so this runs
in a process of its own (`verify_job.py`). jax has no public call for replicas: `compile_and_load` and
`execute_sharded` are methods of jaxlib's client, and the one use of them is here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jax.extend.backend import get_backend, get_compile_options
from jax.extend.mlir import hlo_to_stablehlo
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxlib.xla_client import DeviceList

from compiler.errors import IncompatibleError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray


class Replicas:
    """Devices of `ranks` replicas. Raises IncompatibleError where this process has fewer."""

    def __init__(self, ranks: int) -> None:
        found = jax.devices("cpu")
        if len(found) < ranks:
            raise IncompatibleError(
                f"expected {ranks} virtual devices, found {len(found)}",
                hint=f"set XLA_FLAGS=--xla_force_host_platform_device_count={ranks} before jax is imported",
            )
        self._devices = found[:ranks]
        self._sharding = NamedSharding(Mesh(np.array(self._devices), ("rank",)), PartitionSpec("rank"))

    def load(self, data: bytes) -> Executable:
        """Program of a serialized HloModuleProto."""
        ranks = len(self._devices)
        options = get_compile_options(ranks, 1, np.arange(ranks)[:, None])
        options.executable_build_options.use_spmd_partitioning = False
        client = get_backend("cpu")
        devices = DeviceList(tuple(self._devices))
        return Executable(self, client.compile_and_load(hlo_to_stablehlo(data), devices, options))

    def put(self, arrays: Sequence[NDArray[Any]]) -> jax.Array:
        """One array of each rank, of equal shapes with an axis at least, on the ranks' devices."""
        return self.joined([jax.device_put(array, to) for array, to in zip(arrays, self._devices, strict=True)])

    def joined(self, arrays: Sequence[jax.Array]) -> jax.Array:
        """Arrays on the devices of the ranks, as the one array that a program takes."""
        first, *rest = arrays[0].shape
        return jax.make_array_from_single_device_arrays((first * len(arrays), *rest), self._sharding, list(arrays))


class Executable:
    """A compiled graph."""

    def __init__(self, replicas: Replicas, loaded: Any) -> None:
        self._replicas, self._loaded = replicas, loaded

    def run(self, arguments: Sequence[jax.Array]) -> list[jax.Array]:
        """Outputs of all ranks; arguments that outputs alias are used up."""
        results = self._loaded.execute_sharded(list(arguments)).disassemble_into_single_device_arrays()
        return [self._replicas.joined(arrays) for arrays in results]


def of_ranks(array: jax.Array) -> list[NDArray[Any]]:
    """The array of each rank, from the joined one."""
    shards = sorted(array.addressable_shards, key=lambda shard: shard.device.id)
    return [np.asarray(shard.data) for shard in shards]
