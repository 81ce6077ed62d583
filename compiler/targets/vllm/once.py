"""One timed answer by a vLLM server that starts from an artifact's cache, as at the start of a container.

Command: `python -m compiler.targets.vllm.once ARTIFACT PROMPT MAX_NEW_TOKENS PATH`. Prints one JSON object, with `hit`
and the counters beside the figures of `Runner.once`. A start that compiles is an error, which names the factors that
differ. `PATH`: that of the server, whose platform code runs programs at start.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.artifact.manifest import load_manifest
from compiler.errors import IncompatibleError, LmiCompileError, RankError, boundary
from compiler.targets.vllm.artifact import section_of
from compiler.targets.vllm.environment import FORCED, pinned
from compiler.targets.vllm.explain import explain_start, read_report
from compiler.targets.vllm.interpreter import plugins, python_with_vllm
from compiler.targets.vllm.isolation import isolation
from compiler.targets.vllm.proof import judge
from compiler.targets.vllm.server import ServerHost, ServerRun, log_of, start
from compiler.targets.vllm.serving import Serving

if TYPE_CHECKING:
    from collections.abc import MutableMapping, Sequence

_IDS = (0, 1, 2)
"""Prompt of an artifact without a tokenizer."""


def serve_once(
    artifact: Path, requests: Sequence[dict[str, Any]], work: Path
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Session of a server that starts from the artifact's cache, and the reasons why it was no hit.

    Raises IncompatibleError, ToolchainMissing.
    """
    manifest = load_manifest(artifact)
    cache = section_of(manifest).cache
    if cache is None:
        raise IncompatibleError(
            f"`{manifest.name}` has no compiled cache",
            hint="run its `bake.sh` in the image, then `lmi-compile package`",
        )
    report = read_report(artifact / cache.report)
    with isolation(artifact, cache.model_path) as isolated:
        serving = replace(Serving(**report["serving"]), model=isolated.model)
        root = work / "root"
        settings = {**pinned(cache.dialect, manifest.device.kind, str(root), {}), **FORCED[cache.dialect]}
        paths = {file["path"]: file["digest"] for file in report["files"]}
        machine = ServerHost(python_with_vllm(), isolated, plugins())
        made = [{**each, "bodies": [{**body, "model": isolated.model} for body in each["bodies"]]} for each in requests]
        run = ServerRun("once", artifact, root, settings, artifact, paths, requests=made)
        found = start(run, machine, serving, work)
    baked: dict[str, Any] = {"answers": {}, "ready": None, "cpu": 0.0}
    verdict = judge(found, baked, cache.dialect, serving.tp)
    named = [] if verdict.hit else explain_start(report, work / "once" / "record")
    lines = (*verdict.reasons, *(f"{each.subject}: {each.text}" for each in named if each.state == "mismatch"))
    return {**found.session, "counters": dict(verdict.counters)}, lines


def answer_once(artifact: Path, prompt: str, max_new_tokens: int) -> dict[str, Any]:
    """Start, answer greedily, stop. Raises LmiCompileError; RankError where the start was no hit."""
    with tempfile.TemporaryDirectory(prefix="lmi-vllm-") as folder:
        work = Path(folder)
        body = {"prompt": prompt or list(_IDS), "max_tokens": max_new_tokens, "temperature": 0, "logprobs": 1}
        began = time.monotonic()
        session, lines = serve_once(artifact, [{"name": "answer", "bodies": [body]}], work)
        if lines:
            raise RankError(
                "\n".join([f"{artifact} does not start from its cache:", *(f"  {line}" for line in lines)]),
                hint="`lmi-compile explain-miss` says what to change",
                log=log_of(work, "once"),
            )
    (answer,) = session["answers"]["answer"]
    choice, usage = answer["choices"][0], answer.get("usage", {})
    probabilities = (choice.get("logprobs") or {}).get("token_logprobs") or []
    return {
        "hit": True,
        "counters": session["counters"],
        "seconds_to_load": session["ready"],
        "seconds_to_first_token": session["first"],
        "seconds_to_answer": time.monotonic() - began - session["ready"],
        "prompt_tokens": usage.get("prompt_tokens"),
        "new_tokens": usage.get("completion_tokens"),
        "finish_reason": choice.get("finish_reason"),
        "log_prob": sum(probabilities),
        "text": choice.get("text", ""),
    }


def show_compilers(environment: MutableMapping[str, str], path: str) -> None:
    """Undo prewarm's hiding of compilers for the server, whose carrier sees every run of one: torch loads no kernel
    where CXX is empty. `path`: value of PATH.
    """
    environment["PATH"] = path
    for name in ("CC", "CXX"):
        if not environment.get(name, "other"):
            del environment[name]


if __name__ == "__main__":
    try:
        show_compilers(os.environ, sys.argv[4])
        with boundary(input=sys.argv[1]):
            print(json.dumps(answer_once(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]))))
    except LmiCompileError as error:
        print(error.log, error.message, sep="\n", file=sys.stderr)
        sys.exit(error.exit_code)
