from __future__ import annotations

import pytest

from compiler.errors import UsageError
from compiler.registry.address import Address, parse_address
from compiler.registry.layout import check_paths
from compiler.registry.ranks import rank_of

HEX = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("s3://bucket/engines/mixtral@current", Address("s3://bucket/engines/", "mixtral", "current")),
        ("s3://bucket/a/b/mixtral", Address("s3://bucket/a/b/", "mixtral")),
        ("s3://bucket/mixtral@v1", Address("s3://bucket/", "mixtral", "v1")),
        ("s3://bucket/engines/", Address("s3://bucket/engines/")),
        ("s3://bucket", Address("s3://bucket/")),
        ("s3://bucket/", Address("s3://bucket/")),
        ("file:///srv/engines/m@v1.2_3-4", Address("file:///srv/engines/", "m", "v1.2_3-4")),
        ("/srv/engines/m", Address("/srv/engines/", "m")),
        ("./m@v1", Address("./", "m", "v1")),
        ("m@v1", Address("artifacts/", "m", "v1")),
        (f"m@sha256:{HEX}", Address("artifacts/", "m", f"sha256:{HEX}")),
    ],
)
def test_addresses(text: str, expected: Address) -> None:
    assert parse_address(text) == expected


@pytest.mark.parametrize(
    "text",
    ["s3://", "s3://@v1", "x/@v1", "x/m@", "x/m@a b", f"m@sha256:{HEX[:-1]}", "m@sha256:x", "x/.m", "x/m m", "x/blobs",
     "x/m@v1@v2", "x/..", f"x/{'m' * 129}"],
)  # fmt: skip
def test_malformed_addresses(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_address(text)
    assert caught.value.hint


@pytest.mark.parametrize(
    ("paths", "problem"),
    [
        (["a/../b"], "empty"), (["a//b"], "empty"), (["./a"], "empty"), (["a\0b"], "NUL"), (["x" * 256], "255"),
        (["ä" * 128], "255"), (["a", "a/b"], "a file and a folder"), (["/".join(["x" * 200] * 4)], "too long"),
    ],
)  # fmt: skip
def test_names_that_cannot_be_mounted(paths: list[str], problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        check_paths("name", ["good/file", *paths])
    check_paths("name", ["good/file", "good/other", "x" * 255])


@pytest.mark.parametrize(
    ("path", "rank"),
    [
        ("weights/rank0.safetensors", 0), ("engines/rank12.engine", 12), ("model-rank-3-part-0.safetensors", 3),
        ("rank_7/x", 7), ("cache/rank1/y", 1), ("frank0.bin", None), ("rank0x.bin", None), ("config.json", None),
        ("ranks/all", None),
    ],
)  # fmt: skip
def test_ranks(path: str, rank: int | None) -> None:
    assert rank_of(path) == rank
