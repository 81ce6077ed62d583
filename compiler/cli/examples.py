"""Examples at the end of each command's `--help`: the words behind `lmi-compile`, by command."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ROLE = "arn:aws:iam::111122223333:role/lmi"
EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "plan": (
        "plan --model mixtral --tp 8",
        "plan --model mixtral --tp 8 --offline --json",
        "plan --model ./llama --tp max --instance-type ml.g5.12xlarge",
    ),
    "convert": ("convert --model ./mixtral --tp 2 --output build/ranks",),
    "build": (
        "build --model ./mixtral --tp 2 --output artifacts/mixtral",
        "build --model mixtral --tp 8 -o s3://bucket/engines/mixtral@v1",
        "build --model ./llama --from-properties serving.properties",
        "build --model ./llama --target trtllm --tp 4 --dry-run",
    ),
    "package": ("package artifacts/llama-trtllm-tp4 --engines build/engines",),
    "neo": ("neo",),
    "migrate": ("migrate artifacts/llama-trtllm-tp4",),
    "matrix": (
        "matrix plan --file ci/builds.toml --store s3://bucket/engines",
        "matrix build --file ci/builds.toml --store s3://bucket/engines",
    ),
    "matrix plan": ("matrix plan --file ci/builds.toml --store s3://bucket/engines",),
    "matrix build": (
        "matrix build --file ci/builds.toml --store s3://bucket/engines",
        "matrix build --store s3://bucket/engines --on batch --no-wait",
    ),
    "matrix status": ("matrix status --file ci/builds.toml --store s3://bucket/engines",),
    "matrix logs": ("matrix logs mixtral-tp8",),
    "matrix cancel": ("matrix cancel", "matrix cancel mixtral-tp8"),
    "matrix report": ("matrix report --html fleet.html",),
    "matrix emit": ("matrix emit --file ci/builds.toml --as argo",),
    "cache": ("cache ls", "cache clear"),
    "cache ls": ("cache ls", "cache ls --json"),
    "cache clear": ("cache clear",),
    "models": ("models", "models --json"),
    "inspect": ("inspect artifacts/mixtral",),
    "verify": ("verify artifacts/mixtral", "verify artifacts/mixtral --model ./mixtral"),
    "report": ("report artifacts/mixtral -o mixtral.html", "report artifacts/new --compare artifacts/old"),
    "doctor": ("doctor", "doctor --json"),
    "generate": ('generate artifacts/mixtral "Return the" --max-new-tokens 40',),
    "serve": ("serve artifacts/mixtral --port 8080",),
    "push": ("push artifacts/mixtral s3://bucket/engines/mixtral@v1",),
    "pull": ("pull s3://bucket/engines/mixtral@current /opt/ml/model",),
    "ls": ("ls s3://bucket/engines/",),
    "promote": ("promote s3://bucket/engines/mixtral@v1 --to current",),
    "rollback": ("rollback s3://bucket/engines/mixtral",),
    "history": ("history s3://bucket/engines/mixtral@current",),
    "diff": ("diff artifacts/mixtral s3://bucket/engines/mixtral@current",),
    "gc": ("gc s3://bucket/engines/ --dry-run",),
    "sign": ("sign artifacts/mixtral --key release.pem",),
    "scan": ("scan artifacts/mixtral",),
    "recommend": ("recommend --model mixtral",),
    "preflight": ("preflight s3://bucket/engines/mixtral@v1",),
    "prewarm": ("prewarm s3://bucket/engines/mixtral@v1 /opt/ml/model",),
    "explain-miss": ("explain-miss artifacts/llama",),
    "deploy": (f"deploy s3://b/engines/mixtral@v1 --instance-type ml.p4d.24xlarge \\\n      --role {ROLE} --dry-run",),
    "status": ("status mixtral",),
    "undeploy": ("undeploy mixtral",),
}


def examples_of(path: str) -> tuple[str, ...]:
    """Command lines for a command by its path, such as `lmi-compile cache ls`."""
    words = path.split()
    key = next((" ".join(words[-n:]) for n in (2, 1) if " ".join(words[-n:]) in EXAMPLES), "")
    return tuple(f"lmi-compile {words}" for words in EXAMPLES.get(key, ()))
