"""Answers to prompts by a vLLM server that starts from an artifact's cache, and a server in the foreground."""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compiler.artifact.manifest import load_manifest
from compiler.errors import IncompatibleError, RankError
from compiler.runtime.params import Completion, Token
from compiler.targets.vllm.artifact import section_of
from compiler.targets.vllm.environment import FORCED, pinned, server_environment
from compiler.targets.vllm.explain import read_report
from compiler.targets.vllm.interpreter import plugins, python_with_vllm
from compiler.targets.vllm.isolation import isolation
from compiler.targets.vllm.once import serve_once
from compiler.targets.vllm.server import free_port, log_of
from compiler.targets.vllm.serving import Serving, server_argv

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from compiler.runtime.params import FinishReason, GenerationParams
    from compiler.targets.vllm.cache import CompiledCache

_AT_ONCE = 16
"""Prompts that are sent at the same time."""
_MOUNT = 'mount --bind "$1" "$2" && mount -o remount,bind,ro "$2" && shift 2 && exec "$@"'
_POLL = 0.25
"""Seconds between two looks at a server that starts or serves."""


def answers(artifact: Path, prompts: Sequence[str], params: GenerationParams) -> tuple[list[Completion], list[str]]:
    """Answers to prompts in their order, and lines on why the server's start was no hit.

    Raises IncompatibleError, ToolchainMissing, RankError for a server that does not answer.
    """
    bodies = [_body(prompt, params) for prompt in prompts]
    requests = [
        {"name": str(place), "bodies": bodies[place : place + _AT_ONCE]} for place in range(0, len(bodies), _AT_ONCE)
    ]
    with tempfile.TemporaryDirectory(prefix="lmi-vllm-") as folder:
        session, lines = serve_once(artifact, requests, Path(folder))
        if session["error"]:
            raise RankError(
                f"the vLLM server of {artifact} did not answer: {session['error']}",
                hint="the log has its output; `lmi-compile explain-miss` compares this machine with the artifact",
                log=log_of(Path(folder), "once"),
            )
    found = [answer for request in requests for answer in session["answers"][request["name"]]]
    return [_completion(answer, params, session["first"]) for answer in found], list(lines)


def _body(prompt: str, params: GenerationParams) -> dict[str, Any]:
    """Body for /v1/completions. Values that switch something off are left out: vLLM spells some of them otherwise."""
    switched = {
        "top_k": params.top_k,
        "min_p": params.min_p,
        "presence_penalty": params.presence_penalty,
        "frequency_penalty": params.frequency_penalty,
        "min_tokens": params.min_new_tokens,
        "stop": list(params.stop),
        "stop_token_ids": list(params.stop_ids),
        "ignore_eos": params.ignore_eos,
    }
    return {
        "prompt": prompt,
        "max_tokens": params.max_new_tokens,
        "temperature": params.temperature,
        "top_p": params.top_p,
        "repetition_penalty": params.repetition_penalty,
        "include_stop_str_in_output": params.include_stop,
        "skip_special_tokens": params.skip_special,
        "logprobs": params.top_log_probs,
        "return_token_ids": True,
        **({"prompt_logprobs": 0} if params.prompt_log_probs else {}),
        **({"seed": params.seed} if params.seed is not None else {}),
        **{name: value for name, value in switched.items() if value},
    }


def _completion(answer: Mapping[str, Any], params: GenerationParams, first: float) -> Completion:
    """Completion of an answer of /v1/completions. vLLM names no special tokens: none is marked."""
    choice = answer["choices"][0]
    found = choice.get("logprobs") or {}
    texts, probabilities = found.get("tokens") or [], found.get("token_logprobs") or []
    tokens = tuple(
        Token(int(token), str(text), float(probability), special=False)
        for token, text, probability in zip(choice.get("token_ids") or [], texts, probabilities, strict=False)
    )
    stopped = choice.get("stop_reason")
    return Completion(
        text=choice["text"],
        tokens=tokens,
        finish_reason=_reason(choice.get("finish_reason"), stopped),
        prompt_tokens=answer["usage"]["prompt_tokens"],
        log_prob=sum(token.log_prob for token in tokens),
        seconds_to_first_token=first,
        stopped_by=stopped if isinstance(stopped, str) else None,
        prompt_log_probs=tuple(_of_prompt(choice)) if params.prompt_log_probs else (),
    )


def _reason(finished: str | None, stopped: object) -> FinishReason:
    if finished == "length":
        return "length"
    return "stop_sequence" if isinstance(stopped, str) else "eos_token"


def _of_prompt(choice: Mapping[str, Any]) -> Iterator[float]:
    """Log probabilities of the prompt's tokens but the first; each entry begins with the prompt's own token."""
    for entry in (choice.get("prompt_logprobs") or [])[1:]:
        yield float(next(iter(entry.values()))["logprob"])


def serve(artifact: Path, host: str, port: int, ready: Callable[[str], None], stop: threading.Event) -> None:
    """Serve with vLLM's own routes until `stop` is set. `port`: 0 takes a free one. `ready(url)`: it answers.

    Raises IncompatibleError where the cache cannot hit, ToolchainMissing, RankError for a server that ends by itself.
    """
    section = section_of(load_manifest(artifact))
    cache, port = section.cache, port or free_port()
    if cache is None:
        raise IncompatibleError(
            f"{artifact} has no compiled cache", hint="run its `bake.sh` in the image, then `lmi-compile package`"
        )
    report = read_report(artifact / cache.report)
    with (
        tempfile.TemporaryDirectory(prefix="lmi-vllm-") as folder,
        isolation(artifact, cache.model_path, network=True) as isolated,
    ):
        if isolated.model != cache.model_path:
            raise IncompatibleError(
                f"the cache is for a model at {cache.model_path}; nothing can be mounted there here",
                hint=f"put the artifact there, or serve it in a container: {isolated.model} is another key",
            )
        mount = (*isolated.prefix, "sh", "-c", _MOUNT, "sh", str(artifact.absolute()), cache.model_path)
        argv = server_argv(Serving(**report["serving"]), python_with_vllm(), host, port)
        environment = _environment(artifact, cache, section.on_miss, Path(folder))
        _until(stop, (*(mount if isolated.prefix else ()), *argv), environment, f"http://{host}:{port}", ready)


def _environment(artifact: Path, cache: CompiledCache, on_miss: str, folder: Path) -> dict[str, str]:
    home, temporary = folder / "home", folder / "tmp"
    for each in (home, temporary):
        each.mkdir()
    settings = pinned(cache.dialect, cache.device, str(folder / "cache"), {})
    return server_environment(
        os.environ,
        {**settings, **FORCED[cache.dialect], "LMI_BOOT_ON_MISS": on_miss},
        home=str(home),
        temporary=str(temporary),
        python_path=os.pathsep.join([str(artifact.absolute()), *plugins()]),
    )


def _until(
    stop: threading.Event, argv: Sequence[str], environment: Mapping[str, str], url: str, ready: Callable[[str], None]
) -> None:
    """Run a server until `stop` is set or it ends, which is an error."""
    server, told = subprocess.Popen(argv, env=environment), False
    try:
        while not stop.wait(_POLL):
            if server.poll() is not None:
                raise RankError(f"the vLLM server ended with exit code {server.returncode}", hint="its output is above")
            if not told and _answers(url):
                told = True
                ready(url)
    finally:
        server.terminate()
        try:
            server.wait(60)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):  # noqa: S310  # the server's own address
            return True
    except urllib.error.HTTPError as refusal:  # has the connection
        refusal.close()
        return False
    except OSError:
        return False
