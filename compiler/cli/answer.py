"""Prompts in, answers out, as text or as JSON: the work of `generate`."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TextIO

from compiler.artifact.manifest import load_manifest
from compiler.errors import UsageError
from compiler.targets.runners import Runner, runner_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from compiler.runtime.generate import Model
    from compiler.runtime.params import Completion, GenerationParams


def answer(
    artifact: Path,
    prompts: Sequence[str],
    params: GenerationParams,
    out: TextIO,
    *,
    stream: bool,
    log_probs: bool,
    as_json: bool,
) -> None:
    """Write the answers to `out`. A single prompt is streamed with `stream`; a prompt `-` is one per line of stdin.

    Raises what `Runner.load` and `Runner.answers` raise.
    """
    texts = [text for prompt in prompts for text in (_lines() if prompt == "-" else [prompt])]
    runner = runner_of(load_manifest(artifact)) or Runner()
    done: Sequence[Completion]
    if runner.streams and len(texts) == 1 and stream and not as_json:
        with runner.load(artifact) as model:
            done = [_streamed(model, texts[0], params, out)]
    else:
        done, warnings = runner.answers(artifact, texts, params)
        for line in warnings:
            print(f"warning: {line}", file=sys.stderr)
        if not as_json:
            out.writelines(f"{completion.text}\n" for completion in done)
    if as_json:
        out.write(json.dumps([_facts(p, c) for p, c in zip(texts, done, strict=True)], indent=2) + "\n")
        return
    for completion in done:
        if log_probs:
            out.writelines(f"{token.log_prob:10.4f}  {token.text!r}\n" for token in completion.tokens)
        print(_note(completion), file=sys.stderr)


def _lines() -> list[str]:
    found = [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not found:
        raise UsageError(
            "`-` reads one prompt per line from stdin; found none",
            hint="pipe a file with prompts in, or give the prompts as arguments",
        )
    return found


def _streamed(model: Model, prompt: str, params: GenerationParams, out: TextIO) -> Completion:
    completion = None
    for piece in model.stream(prompt, params):
        out.write(piece.text)
        out.flush()
        completion = piece.completion
    out.write("\n")
    assert completion is not None
    return completion


def _facts(prompt: str, completion: Completion) -> dict[str, Any]:
    return {"prompt": prompt, **asdict(completion)}


def _note(completion: Completion) -> str:
    return (
        f"{completion.prompt_tokens} prompt tokens, {len(completion.tokens)} new ones, "
        f"finish_reason {completion.finish_reason}, "
        f"first token after {completion.seconds_to_first_token:.2f} s"
    )
