"""Scan of an artifact for credentials and paths of the build machine. Findings give file and kind, never the value.

    safetensors               the header only; its tensors are the model's
    files of the source       tokenizer and configs, as the model's authors published them: credentials only
    all other files           text, compiled packages (member by member), engines: credentials and paths

Engines have gigabytes, so of binary data only runs of text are scanned (text.py), and a rule's regular expression runs
only near one of its literals. Values of this process's environment variables with secret-like names are searched
literally.
"""

from __future__ import annotations

import mmap
import os
import re
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from compiler.artifact.archive import ZIP
from compiler.artifact.manifest import MANIFEST
from compiler.artifact.text import text_of
from compiler.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from compiler.artifact.manifest import Manifest


@dataclass(frozen=True)
class Rule:
    """Rule for findings of one `kind`. Every match of `pattern` contains one of `literals`, at most `before` bytes
    after its start.
    """

    kind: str
    literals: tuple[bytes, ...]
    pattern: re.Pattern[bytes]
    before: int = 0


@dataclass(frozen=True)
class ScanFinding:
    """One finding. `where`: the file, or `file!member` for a member of an archive."""

    where: str
    kind: str


_EDGE = rb"(?<![A-Za-z0-9_/+-])"
_END = rb"(?![A-Za-z0-9_/+=-])"

CREDENTIALS = (
    Rule("AWS access key id", (b"AKIA", b"ASIA"), re.compile(_EDGE + rb"(?:AKIA|ASIA)[A-Z2-7]{16}" + _END)),
    Rule(
        "AWS secret key or session token",
        (b"SECRET_ACCESS_KEY", b"secret_access_key", b"SESSION_TOKEN", b"session_token", b"SecretAccessKey"),
        re.compile(rb"(?i:aws_?)?(?i:secret_?access_?key|session_?token)[\"']?\s*[=:]\s*[\"']?[A-Za-z0-9/+=]{40,}"),
        before=4,
    ),
    Rule("Hugging Face token", (b"hf_",), re.compile(_EDGE + rb"hf_[A-Za-z0-9]{34,}" + _END)),
    Rule("GitHub token", (b"ghp_", b"gho_", b"ghs_", b"github_pat_"),
         re.compile(_EDGE + rb"(?:gh[pos]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{60,})" + _END)),
    Rule("private key", (b"PRIVATE KEY-----",), re.compile(rb"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----"), before=41),
    Rule("password in an URL", (b"://",), re.compile(rb"[a-z][a-z0-9+]{1,15}://[^\s/:@\"']{1,64}:[^\s/:@\"']{6,128}@[\w.-]"),
         before=16),
)  # fmt: skip

PATHS = (
    Rule("path in a home directory", (b"/home/", b"/Users/"),
         re.compile(rb"(?<![\w.%})-])/(?:home|Users)/[A-Za-z][\w.-]{0,31}/[\w.]")),
    Rule("path in root's home directory", (b"/root/",), re.compile(rb"(?<![\w.%})-])/root/[\w.]")),
    Rule("environment dump", (b"\nPATH=/", b"\0PATH=/", b'"PATH": "/'),
         re.compile(rb'[\n\0]PATH=/[^\n\0]{1,4000}[\n\0][A-Z_]{2,40}=|"PATH": "/[^"]{0,4000}",\s*"[A-Z_]{2,40}":')),
)  # fmt: skip

_SECRET_NAME = re.compile(r"(TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL|PRIVATE_KEY|API_KEY|ACCESS_KEY)", re.IGNORECASE)
_SHORTEST_SECRET = 12
"""Characters: shorter values would be found by chance."""

SOURCE_FILES = re.compile(
    r"(tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|.*\.model|.*\.tiktoken|"
    r"chat_template\.\w+|config\.json|generation_config\.json)"
)
"""Names of the files that an artifact has unchanged from its model (storage/checkpoints/source.py)."""


def own_secrets(environment: Mapping[str, str] | None = None) -> tuple[Rule, ...]:
    """Rules for the secrets in `environment` (default: this process's), named by their variables."""
    found = os.environ if environment is None else environment
    return tuple(
        Rule(f"value of ${name}", (value.encode(),), re.compile(re.escape(value.encode())))
        for name, value in sorted(found.items())
        if _SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET and not Path(value).exists()
    )


def scan(folder: Path, manifest: Manifest, environment: Mapping[str, str] | None = None) -> tuple[ScanFinding, ...]:
    """Find everything in an artifact that must not be published, each kind once per file. Raises OSError."""
    credentials = (*CREDENTIALS, *own_secrets(environment))
    findings: list[ScanFinding] = []
    for path in [*(file.path for file in manifest.files), MANIFEST]:
        of_source = SOURCE_FILES.fullmatch(PurePosixPath(path).name) is not None
        rules = credentials if of_source else (*credentials, *PATHS)
        for where, data in _contents(folder / path, path):
            kinds = {rule.kind for text in text_of(data) for rule in rules if _matches(rule, text)}
            findings += [ScanFinding(where, rule.kind) for rule in rules if rule.kind in kinds]
    return tuple(findings)


def check_publishable(folder: Path, manifest: Manifest, environment: Mapping[str, str] | None = None) -> None:
    """Check that `scan` finds nothing in an artifact. Raises RefusedError with all findings."""
    findings = scan(folder, manifest, environment)
    if findings:
        raise RefusedError(
            "\n".join(
                [f"{folder} may not be published: it contains", *(f"  {f.where}: {f.kind}" for f in findings[:40])]
            ),
            hint="remove it from the source or the toolchain's environment and build again; "
            "replace a credential that was written to a file",
        )


def _contents(file: Path, path: str) -> Iterator[tuple[str, bytes | mmap.mmap]]:
    """Bytes of a file to scan: all of it, or those of an archive's members, or a safetensors header."""
    if file.stat().st_size == 0:
        return
    with file.open("rb") as opened:
        head = opened.read(8)
        if path.endswith(".safetensors"):
            yield path, opened.read(min(int.from_bytes(head, "little"), 100 << 20))
        elif head.startswith(ZIP):
            with zipfile.ZipFile(file) as archive:
                for member in archive.infolist():
                    yield f"{path}!{member.filename}", archive.read(member)
        else:
            with mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                yield path, mapped


def _matches(rule: Rule, data: bytes) -> bool:
    for literal in rule.literals:
        at = data.find(literal)
        while at >= 0:
            begin = max(at - rule.before, 0)
            # From the first position where a match with this literal can begin; the pattern sees the bytes before it.
            if any(rule.pattern.match(data, start) for start in range(begin, at + 1)):
                return True
            at = data.find(literal, at + 1)
    return False
