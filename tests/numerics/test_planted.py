"""Faults that show only in long rows, in the second row or behind a block of the cache: judge, gate and verify fail.

Each fault is planted in the code that computes the rank files or runs the artifact. One row of 48 tokens, the proof of
earlier versions, passes all of them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

import recipes
from compiler.decoder import attention, rotary
from compiler.errors import NumericsError
from compiler.model.limits import Limits
from compiler.numerics.proof import Proof
from compiler.pipeline.build import build
from compiler.pipeline.request import Ask, BuildRequest
from compiler.quantization.request import NONE, Quant
from compiler.quantization.schemes import SCHEMES, Tolerance
from compiler.runtime.generate import Model
from compiler.targets.inductor.runtime import SegmentRunner
from compiler.targets.trtllm import judge as trtllm_judge
from tests.pipeline.test_reference import Real
from tests.runtime.eager import engine
from tests.tiny import write_checkpoint
from tests.tiny_configs import ROPE_LLAMA3, VOCAB

if TYPE_CHECKING:
    from pathlib import Path

    from compiler.artifact.manifest import Manifest

Planted = Callable[[Callable[..., Any]], Callable[..., Any]]
"""The faulty function, from the right one."""

POSITIONS = 512
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "window 100": ("mistral", {"sliding_window": 100}),
    "window 400": ("mistral", {"sliding_window": 400}),
    "boundary 8192": (
        "llama",
        {
            "rope_parameters": {**ROPE_LLAMA3, "original_max_position_embeddings": 8192},
            "max_position_embeddings": 65536,
        },
    ),
    "no limit": ("llama", {}),
}
"""Case of `tests/tiny_configs.py`, and changes of its configuration. 400 positions and more are proven lowered."""
DTYPES = {"boundary 8192": "bfloat16"}
"""Of the checkpoint, where it is not float32: there a scaling of long wavelengths is lost in the rounding at first."""
INT8 = replace(SCHEMES["int8-weight"], tolerance=Tolerance(perplexity=10, kl=10, stream=10))
"""Judged by its layers alone: models of the tests are not trained."""


def _wider_mask(by: int) -> Planted:
    def planted(mask: Callable[..., Any]) -> Callable[..., Any]:
        def masked(positions: Any, keys: Any, scores: Any, dtype: Any) -> Any:
            changed = replace(scores, window=scores.window and scores.window + by)
            return mask(positions, keys, changed, dtype)

        return masked

    return planted


def _block_lost(dequantize: Callable[..., Any]) -> Callable[..., Any]:
    """From the position 128 on, the cache is read at position 0."""

    def read(stored: Any, *more: Any) -> Any:
        found = dequantize(stored, *more).clone()
        found[:, 128:] = found[:, :1]
        return found

    return read


def _first_row_for_all(dequantize: Callable[..., Any]) -> Callable[..., Any]:
    return lambda stored, *more: dequantize(stored[:1].expand_as(stored), *more)


def _no_scaling_of_the_decoder(frequencies: Callable[..., Any]) -> Callable[..., Any]:
    return lambda config: frequencies(replace(config, rope_scaling=None))


def _wider_attend(by: int) -> Planted:
    def planted(attend: Callable[..., Any]) -> Callable[..., Any]:
        return lambda query, key, value, slopes, window: attend(query, key, value, slopes, window and window + by)

    return planted


def _block_lost_by_the_judge(attend: Callable[..., Any]) -> Callable[..., Any]:
    def read(query: Any, key: Any, value: Any, *more: Any) -> Any:
        key, value = (np.concatenate([x[:128], np.repeat(x[:1], max(len(x) - 128, 0), 0)]) for x in (key, value))
        return attend(query, key, value, *more)

    return read


def _no_scaling_of_the_judge(frequencies: Callable[..., Any]) -> Callable[..., Any]:
    return lambda dim, base, _scaling: frequencies(dim, base, None)


DECODER: dict[str, tuple[str, Any, str, Planted]] = {
    "a window that is ignored": ("window 100", attention, "mask", _wider_mask(1000)),
    "a long window that is ignored": ("window 400", attention, "mask", _wider_mask(1000)),
    "a window longer by one": ("window 100", attention, "mask", _wider_mask(1)),
    "a long window longer by one": ("window 400", attention, "mask", _wider_mask(1)),
    "a long window shorter by one": ("window 400", attention, "mask", _wider_mask(-1)),
    "a rope scaling that is ignored": ("boundary 8192", rotary, "frequencies", _no_scaling_of_the_decoder),
    "a lost block of the cache": ("no limit", attention, "dequantize", _block_lost),
    "the cache of the first row": ("no limit", attention, "dequantize", _first_row_for_all),
}
JUDGE: dict[str, tuple[str, Any, str, Planted]] = {
    "a window that is ignored": ("window 100", trtllm_judge, "attend", _wider_attend(1000)),
    "a long window that is ignored": ("window 400", trtllm_judge, "attend", _wider_attend(1000)),
    "a window longer by one": ("window 100", trtllm_judge, "attend", _wider_attend(1)),
    "a long window longer by one": ("window 400", trtllm_judge, "attend", _wider_attend(1)),
    "a rope scaling that is ignored": ("boundary 8192", trtllm_judge, "frequencies", _no_scaling_of_the_judge),
    "a lost block of the cache": ("no limit", trtllm_judge, "attend", _block_lost_by_the_judge),
}
"""Fault -> model, and the function of a module that is replaced."""


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A float32 checkpoint of a model of MODELS."""
    made: dict[str, Path] = {}

    def of(model: str) -> Path:
        case, changes = MODELS[model]
        if model not in made:
            folder = tmp_path_factory.mktemp("planted") / "model"
            changes = {"max_position_embeddings": POSITIONS, "intermediate_size": 128, **changes}
            made[model] = write_checkpoint(case, folder, dtype=DTYPES.get(model, "float32"), **changes)
        return made[model]

    return of


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The stage cache of all tests: each of them computes again what its fault is in."""
    return tmp_path_factory.mktemp("cache")


@dataclass(frozen=True)
class Bench:
    """Builds the models of MODELS. `cache`: their stage cache; `patch` plants faults."""

    checkpoint: Callable[[str], Path]
    folder: Path
    cache: Path
    patch: pytest.MonkeyPatch

    def plant(self, module: Any, name: str, planted: Planted) -> None:
        self.patch.setattr(module, name, planted(getattr(module, name)))

    def judged(self, model: str) -> Manifest | None:
        return build(self._request(model, target="trtllm", until="judge")).manifest

    def gated(self, model: str) -> Manifest | None:
        # int8 weights of this toolchain need columns in wholes of 64 a rank
        return build(self._request(model, 1, Quant(INT8), target="trtllm", until="judge")).manifest

    def verified(self, model: str) -> Manifest | None:
        """Built by the stand-in; the segments run in plain torch."""

        def load(_artifact: Path) -> Model:
            limits = Limits(POSITIONS, 4, 512)
            return Model(engine(self.checkpoint(model)), limits, VOCAB, None, frozenset())

        self.patch.setattr("compiler.runtime.generate.load", load)
        self.patch.setattr("compiler.targets.inductor.runtime._check_windows", lambda _: None)  # nothing is compiled
        return build(self._request(model), toolchain=Real(), logits=SegmentRunner().logits).manifest

    def _request(self, model: str, tp: int = 2, quant: Quant = NONE, **changes: Any) -> BuildRequest:
        return BuildRequest(
            model=str(self.checkpoint(model)),
            recipes=recipes,
            ask=Ask(tp=tp, max_batch=4, quant=quant),
            output=self.folder / f"{len([*self.folder.iterdir()])} {model}",
            cache=self.cache,
            **changes,
        )


@pytest.fixture
def bench(checkpoint: Callable[[str], Path], cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    for version in ("pipeline.steps.judge._VERSION", "numerics.gate.measure.VERSION", "numerics.verify.VERSION"):
        monkeypatch.setattr(f"compiler.{version}", str(tmp_path))
    return Bench(checkpoint, tmp_path, cache, monkeypatch)


NEAR_ITS_SCHEME = {"a rope scaling that is ignored"}
"""Faults that the gate also finds in a short row: it compares files with what their scheme computes."""


@pytest.fixture(params=["earlier length", "length of a proof"])
def earlier(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether proofs are one row of 48 tokens, which in a batch runs beside equal ones."""
    if request.param == "length of a proof":
        return False
    for module in ("pipeline.plan", "numerics.verify"):
        monkeypatch.setattr(f"compiler.{module}.proof_of", lambda *_: Proof((48,)))
    monkeypatch.setattr("compiler.numerics.gate.measure.LENGTH", 48)
    monkeypatch.setattr("compiler.targets.inductor.runtime._SHORTER", 0)
    return True


def _fails(prove: Callable[[str], Manifest | None], model: str, earlier: bool, match: str) -> None:
    if earlier:
        assert prove(model) is not None
        return
    with pytest.raises(NumericsError, match=match):
        prove(model)


@pytest.mark.parametrize("model", MODELS)
def test_without_a_fault_all_pass_and_say_how_far_they_reach(bench: Bench, model: str) -> None:
    limit, _, positions = model.partition(" ")
    window, boundary = (int(positions) if limit == name else None for name in ("window", "boundary"))
    assert bench.gated(model) is not None
    for made in (bench.judged(model), bench.verified(model)):
        assert made is not None
        assert made.numerics is not None
        found = made.numerics.coverage
        assert found is not None
        assert (found.rows, found.window, found.boundary) == ((160, 40), window, boundary)
        assert (found.lowered_window, found.lowered_boundary) == (window and 16, boundary and 16)
        assert found.lowered_rows == ((64,) if window or boundary else ())


@pytest.mark.parametrize("fault", JUDGE)
def test_the_judge_finds(fault: str, earlier: bool, bench: Bench) -> None:
    model, *planted = JUDGE[fault]
    bench.plant(*planted)
    _fails(bench.judged, model, earlier, "does not compute what the model computes")


@pytest.mark.parametrize("fault", JUDGE)
def test_the_gate_finds(fault: str, earlier: bool, bench: Bench) -> None:
    model, *planted = JUDGE[fault]
    bench.plant(*planted)
    _fails(bench.gated, model, earlier and fault not in NEAR_ITS_SCHEME, "beyond its tolerance")


@pytest.mark.parametrize("fault", DECODER)
def test_verify_finds(fault: str, earlier: bool, bench: Bench) -> None:
    model, *planted = DECODER[fault]
    bench.plant(*planted)
    _fails(bench.verified, model, earlier, "does not compute what the model computes")
