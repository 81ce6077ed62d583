"""Differences between LMI releases in requests and answers.

Sources: engines/python/setup/djl_python of djl-serving at the tags and branches v0.26.0, v0.27.0, v0.28.0, v0.29.0,
0.30.0-dlc, 0.32.0-dlc and 0.33.0-dlc, read in November 2026: rolling_batch/{trtllm,vllm}_rolling_batch.py,
rolling_batch/rolling_batch.py, output_formatter.py, request_io.py, lmi_{trtllm,vllm}/request_response_utils.py.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, cast, get_args

from compiler.errors import UsageError

JSON = "application/json"
Backend = Literal["trtllm", "vllm"]
Formatter = Literal["json", "jsonlines", "sse"]
Sampling = Literal["do_sample", "inferred", "toolkit", "always"]
TokenStyle = Literal["sparse", "sparse list", "full", "async", "async text"]
DetailStyle = Literal["reason", "rolling", "async"]


@dataclass(frozen=True)
class Contract:
    """Contract of one release and backend.

    `sampling`: when an answer is sampled instead of greedy.
        do_sample   on request          inferred   on request, or where `temperature` is given
        toolkit     on request (then with top_k 5, top_p 0.85, temperature 0.8), or where top_k or top_p is given
        always      unless `do_sample` is false or the temperature is 0
    `tokens`: form of a token.
        sparse        id, text, log_prob, special_token without falsy values      sparse list   with the id in a list
        full          id, text and log_prob always                                async         id, text, logprob
        async text    as async, but id and logprob are null
    `details`: `reason` has the finish reason alone in a stream, and the tokens besides in a whole answer; `rolling`
    adds counts and the prompt; `async` has the seed and the reasons of OpenAI's API.
    `stops_as_end`: a stop sequence is reported as `eos_token`.
    `unknown`: parameters that the release does not know are ignored, or refused.
    `violation`: HTTP status of a request that violates the schema.
    """

    version: str
    backend: Backend
    max_new_tokens: int = 30
    sampling: Sampling = "do_sample"
    tokens: TokenStyle = "full"
    details: DetailStyle = "rolling"
    stops_as_end: bool = True
    stream_on_request: bool = True
    formatter: Formatter | None = None
    unknown: Literal["ignored", "refused"] = "ignored"
    violation: int = 424
    tgi: bool = False

    def media_type(self, *, stream: bool) -> str:
        """Content type of an answer, by the server's formatter or else by the request's `stream`."""
        form = self.formatter or ("jsonlines" if stream else "json")
        return {"json": JSON, "jsonlines": "application/jsonlines", "sse": "text/event-stream"}[form]

    def streams(self, *, stream: bool) -> bool:
        """Whether the answer is a stream: `stream` counts where no formatter is set, and from 0.27 on."""
        if self.formatter is not None:
            return self.formatter != "json"
        return stream and self.stream_on_request


_TRTLLM = Contract("", "trtllm", sampling="toolkit")
_VLLM = Contract("", "vllm")
_EARLY = Contract(
    "",
    "trtllm",
    max_new_tokens=128,
    sampling="toolkit",
    tokens="sparse",
    details="reason",
    stream_on_request=False,
    formatter="jsonlines",  # only so does a 0.26 container stream
    unknown="refused",
)

CONTRACTS: dict[tuple[str, Backend], Contract] = {
    ("0.26", "trtllm"): _EARLY,
    ("0.26", "vllm"): replace(_EARLY, backend="vllm", max_new_tokens=16, sampling="always"),
    ("0.27", "trtllm"): replace(_TRTLLM, tokens="sparse list"),
    ("0.27", "vllm"): replace(_VLLM, tokens="sparse list"),
    **{(version, "trtllm"): _TRTLLM for version in ("0.28", "0.29", "0.30", "0.31", "0.32")},
    **{(version, "vllm"): _VLLM for version in ("0.28", "0.29", "0.30", "0.31")},
    ("0.32", "vllm"): replace(_VLLM, sampling="inferred"),
    ("0.33", "trtllm"): replace(
        _TRTLLM, sampling="always", tokens="async text", details="async", stops_as_end=False, unknown="refused"
    ),
    ("0.33", "vllm"): replace(_VLLM, sampling="always", tokens="async", details="async", stops_as_end=False),
}

DEFAULT = replace(_TRTLLM, version="0.30", sampling="do_sample", stops_as_end=False, unknown="refused", violation=400)
"""Contract where none is requested: the shapes of 0.28 to 0.32, strict about parameters."""


def contract_of(
    version: str | None, backend: str | None = None, formatter: str | None = None, *, tgi: bool = False
) -> Contract:
    """Contract of a release; None: DEFAULT. `backend` None: trtllm. `formatter`: the server's own output formatter.

    Raises:
        UsageError: an unknown release, backend or formatter.
    """
    backend = backend or "trtllm"
    if backend not in get_args(Backend) or formatter not in (None, *get_args(Formatter)):
        raise UsageError(
            f"expected `--lmi-backend` {' or '.join(get_args(Backend))} and `--output-formatter` "
            f"{', '.join(get_args(Formatter))}; found `{backend}` and `{formatter}`",
            hint="leave them out for those of the release",
        )
    found = DEFAULT
    if version is not None:
        releases = {known: one for (known, other), one in CONTRACTS.items() if other == backend}
        if version not in releases:
            known = ", ".join(sorted(releases))
            raise UsageError(
                f"`--lmi-version` is one of {known} for {backend}; found `{version}`",
                hint="releases after 0.33 answer as 0.33 does with vLLM",
            )
        found = replace(releases[version], version=version)
    form = cast("Formatter | None", formatter) or ("sse" if tgi else found.formatter)
    return replace(found, formatter=form, tgi=tgi)
