"""Logits of the source and of the artifact."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from compiler.errors import NumericsError
from compiler.numerics.compare import THRESHOLDS, widened
from compiler.numerics.passages import read_reference
from compiler.pipeline.build import build
from compiler.pipeline.request import Ask, BuildRequest
from compiler.quantization.request import Quant, scheme_of
from compiler.runtime.section import check_artifact
from tests.builds import Heard, copied, leftovers
from tests.passages import stored_logits
from tests.stand_in import StandIn

if TYPE_CHECKING:
    from collections.abc import Callable


class Real(StandIn):
    """Claims to be real, so that numerics are measured; the tests say what the logits are."""

    stand_in = False


def exact(artifact: Path, _: Any) -> Any:
    return stored_logits(artifact)


def wrong(artifact: Path, ids: Any) -> Any:
    return [np.roll(logits, 1, axis=1) for logits in exact(artifact, ids)]


def test_numerics_go_into_the_manifest_and_are_measured_once(
    request_for: Callable[..., BuildRequest],
) -> None:
    first = build(request_for(), toolchain=Real(), logits=exact)
    assert first.manifest is not None
    assert first.manifest.numerics is not None
    assert first.manifest.numerics.reference.startswith("transformers ")
    assert (first.manifest.numerics.kl, first.manifest.numerics.cosine) == (0.0, 1.0)
    assert check_artifact(first.output, by="sha256") == first.manifest
    second = build(request_for(), toolchain=Real(), logits=wrong)
    assert (second.made, second.up_to_date) == ({}, True)


def test_wrong_logits_put_nothing_in_place(request_for: Callable[..., BuildRequest], tmp_path: Path) -> None:
    with pytest.raises(NumericsError, match="kl_median") as caught:
        build(request_for(), toolchain=Real(), logits=wrong)
    assert caught.value.exit_code == 8
    assert not (tmp_path / "artifact").exists()
    assert leftovers(tmp_path) == []
    assert build(request_for(), toolchain=Real(), logits=exact).made == {"verify": 1, "package": 1}


def test_reference_logits_are_shared_by_every_tp(request_for: Callable[..., BuildRequest], tmp_path: Path) -> None:
    build(request_for(tp=1), toolchain=Real(), logits=exact)
    other = build(request_for(tp=4, output=tmp_path / "four"), toolchain=Real(), logits=exact)
    assert other.made.keys() == {"convert", "compile", "verify", "package"}


def test_without_a_tokenizer_numerics_run_on_token_ids(
    request_for: Callable[..., BuildRequest], tmp_path: Path
) -> None:
    bare = copied(Path(request_for().model), tmp_path / "bare")
    for file in bare.glob("tokenizer*"):
        file.unlink()
    heard = Heard()
    result = build(request_for(model=str(bare)), heard, toolchain=Real(), logits=exact)
    assert any("no tokenizer" in warning for warning in heard.warnings)
    straight = read_reference(result.output / "reference.safetensors").straight
    assert [row.shape for row in straight.rows] == [(160,), (40,)]
    assert [logits.shape for logits in straight.logits] == [(28, 259), (28, 259)]
    assert not (result.output / "tokenizer/tokenizer.json").exists()
    with_tokenizer = request_for(model=str(bare), tokenizer=Path(request_for().model), output=tmp_path / "with")
    assert (build(with_tokenizer, toolchain=StandIn()).output / "tokenizer/tokenizer.json").is_file()


@pytest.mark.parametrize(("dtype", "least", "most"), [("float32", 0.0, 1e-6), ("bfloat16", 1e-6, 0.1)])
def test_a_quantized_artifact_is_held_to_what_its_dtype_can_do(
    dtype: str, least: float, most: float, request_for: Callable[..., BuildRequest]
) -> None:
    """The floor is that of the same rank files, by the definitions of their layers in that dtype."""
    ask = Ask(tp=2, max_batch=2, dtype=dtype, quant=Quant(scheme_of("fp8"), accept=True))
    made = build(request_for(ask=ask), toolchain=Real(), logits=exact)
    floor = read_reference(made.output / "reference.safetensors").floor
    assert floor is not None
    assert least <= floor.kl_median < most
    assert made.manifest is not None
    assert made.manifest.numerics is not None
    own = THRESHOLDS["float16" if dtype == "float32" else dtype]
    assert made.manifest.numerics.thresholds == asdict(widened(own, floor))
