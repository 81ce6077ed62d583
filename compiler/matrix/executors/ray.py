"""Engine `ray`: an actor for each cell, on a Ray cluster that exists, or on one that `ray.init` starts here.

[fleet.ray]
address = "ray-head:6379"       # default: RAY_ADDRESS, else the cluster of this machine, else a new one
namespace = "lmi-compile"
autoscale = true                # machines that do not exist yet may come: nothing is refused for want of resources
[fleet.ray.runtime_env]         # of Ray

An actor is detached and named after its attempt, so that it goes on where the driver is killed, and any driver finds
it. It ends with its cell. Resources: cpus (1 if nothing is known), memory, gpus, and `custom`, such as `{sm_90 = 1}`.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from compiler.errors import RefusedError, StoreError, UsageError
from compiler.matrix.command import guarded
from compiler.matrix.executors import JobState, checked_options

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from compiler.matrix.cell import Cell, CellResources

_OPTIONS: dict[str, type] = {"address": str, "namespace": str, "autoscale": bool, "runtime_env": dict}
_ANSWER = 0.2
"""Seconds that a poll waits for answers of actors."""


class CellActor:
    """The process of a cell on a machine of the cluster. It ends with the cell."""

    def __init__(self, argv: Sequence[str]) -> None:
        self._argv = tuple(argv)
        threading.Thread(target=self._run, name="cell", daemon=True).start()

    def alive(self) -> bool:
        """Answered once the actor has its machine."""
        return True

    def _run(self) -> None:
        with guarded(self._argv, stdout=subprocess.DEVNULL, stderr=sys.stderr.fileno()) as child:
            child.wait()
        import ray

        ray.kill(ray.get_runtime_context().current_actor)


class RayCluster:
    """Actors of a cluster; see Executor."""

    name = "ray"
    interval = 0.5
    capacity: CellResources | None = None
    shares_disk = False
    largest_array = 1

    def __init__(self, options: Mapping[str, Any]) -> None:
        self._options = dict(options)
        self._namespace = str(options.get("namespace", "lmi-compile"))
        self._questions: dict[str, tuple[Any, Any]] = {}
        self._placed: set[str] = set()

    def submit(self, cell: Cell) -> str:
        ray = self._connected()
        needs = cell.resources
        wanted = {
            "CPU": needs.cpus or 1.0,
            "GPU": float(needs.gpus),
            "memory": float(needs.memory),
            **dict(needs.custom),
        }
        wanted = {name: count for name, count in wanted.items() if count}
        if not self._options.get("autoscale"):
            _check_fits(wanted, [node["Resources"] for node in ray.nodes() if node["Alive"]])
        actor = ray.remote(CellActor).options(
            name=cell.token,
            namespace=self._namespace,
            lifetime="detached",
            max_restarts=0,
            num_cpus=wanted.pop("CPU"),
            num_gpus=wanted.pop("GPU", 0),
            memory=wanted.pop("memory", None),
            resources=wanted,
            runtime_env=self._options.get("runtime_env") or None,
        )
        self._ask(cell.token, actor.remote(cell.argv))
        return cell.token

    def poll(self, ids: Sequence[str]) -> Mapping[str, JobState]:
        ray = self._connected()
        for job in ids:
            if job not in self._questions:
                with suppress(ValueError):  # no such actor: it has ended
                    self._ask(job, ray.get_actor(job, self._namespace))
        answers = [self._questions[job][1] for job in ids if job in self._questions]
        answered = set(ray.wait(answers, num_returns=len(answers), timeout=_ANSWER)[0]) if answers else set()
        return {job: self._state(job, answered) for job in ids}

    def fetch(self, job: str) -> str:
        return f"actor {job} of namespace {self._namespace}: `ray logs actor` has its output"

    def cancel(self, job: str) -> None:
        ray = self._connected()
        with suppress(ValueError):
            ray.kill(ray.get_actor(job, self._namespace))

    def _state(self, job: str, answered: set[Any]) -> JobState:
        ray = self._connected()
        if job not in self._questions:
            return JobState("ended", "the cluster has no such actor any more")
        actor, answer = self._questions[job]
        if answer in answered:
            try:
                ray.get(answer)
            except ray.exceptions.RayError as error:  # the actor is dead: at its end, or with its machine
                del self._questions[job]
                return JobState("ended", str(error).strip())
            self._placed.add(job)
            self._ask(job, actor)
        return JobState("running" if job in self._placed else "queued")

    def _ask(self, job: str, actor: Any) -> None:
        self._questions[job] = (actor, actor.alive.remote())

    def _connected(self) -> Any:
        """Module ray, connected. Raises UsageError where it is not installed, StoreError where no cluster answers."""
        try:
            import ray
        except ImportError:
            raise UsageError("`--on ray` needs the package ray", hint="pip install 'lmi-compile[ray]'") from None
        if not ray.is_initialized():
            address = self._options.get("address") or os.environ.get("RAY_ADDRESS")
            known = {"namespace": self._namespace, "log_to_driver": False, "logging_level": "ERROR"}
            try:
                try:
                    ray.init(address=address or "auto", **known)
                except ConnectionError:
                    if address:
                        raise
                    ray.init(**known)
            except (ConnectionError, RuntimeError, ValueError) as error:
                where = f"at {address}" if address else "here"
                raise StoreError(
                    f"no Ray cluster answers {where}: {error}", hint="check `ray status`, and [fleet.ray] address"
                ) from None
        return ray


def make(options: Mapping[str, Any], output: object) -> RayCluster:
    """Raises UsageError for options that Ray does not have."""
    del output
    checked_options("ray", options, _OPTIONS)
    return RayCluster(options)


def _check_fits(wanted: Mapping[str, float], nodes: Sequence[Mapping[str, float]]) -> None:
    """Raises RefusedError where no machine has all that a cell needs: Ray would let it wait for ever."""
    if any(all(node.get(name, 0.0) >= count for name, count in wanted.items()) for node in nodes):
        return
    most = {name: max((node.get(name, 0.0) for node in nodes), default=0.0) for name in wanted}
    lines = [f"  {name}: needs {wanted[name]:g}, the most of a machine is {most[name]:g}" for name in wanted]
    raise RefusedError(
        "\n".join([f"none of the {len(nodes)} machines of the Ray cluster has what the cell needs:", *lines]),
        hint="add machines, lower the needs in [build.fleet], or set `autoscale = true` in [fleet.ray]",
    )
