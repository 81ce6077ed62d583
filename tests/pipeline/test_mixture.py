"""`--quant auto`: the fewest bytes whose measured cost fits, from options to an artifact with mixed layers."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from compiler.artifact.manifest import PROVENANCE, Manifest
from compiler.artifact.quantization import MixtureSection, quant_of
from compiler.cli.text import quant_text
from compiler.decoder.traffic import step_bytes
from compiler.errors import MemoryCeilingError, RefusedError, UsageError
from compiler.numerics.verify import check_layout
from compiler.pipeline.build import build
from compiler.pipeline.convert_only import convert_to
from compiler.pipeline.located import plan_of
from compiler.pipeline.plan import Plan
from compiler.pipeline.request import BuildRequest, Resources
from compiler.quantization.request import Quant
from compiler.quantization.schemes import AUTO, Tolerance
from compiler.runtime.section import Segments
from tests.builds import Heard, leftovers
from tests.pipeline.test_groups import NARROW
from tests.pipeline.test_quantized import LOOSE, SHORT, assert_repeats_its_scheme, built
from tests.stand_in import StandIn
from tests.tiny import write_checkpoint

Requests = Callable[..., BuildRequest]
ANY = replace(AUTO, tolerance=LOOSE)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("mixture") / "model"
    return str(write_checkpoint("llama", folder, dtype="float32", num_hidden_layers=3, **NARROW))


@pytest.fixture
def mixed(quantized: Requests, model: str, tmp_path_factory: pytest.TempPathFactory) -> Requests:
    """Requests with one cache for the module: costs are measured once."""
    cache = tmp_path_factory.getbasetemp() / "mixture-cache"
    return lambda quant, **changes: quantized(quant, **{"model": model, "cache": cache, "force": True, **changes})


def mixture_of(made: Manifest) -> MixtureSection:
    assert made.quantisation is not None
    assert made.quantisation.mixture is not None
    return made.quantisation.mixture


def test_without_a_limit_every_part_has_the_fewest_bytes(mixed: Requests, tmp_path: Path) -> None:
    heard = Heard()
    made = built(mixed(Quant(ANY, text=SHORT)), heard)
    found = mixture_of(made)
    assert set(found.parts.values()) == {"gptq"}
    assert found.chosen == len(found.table) - 1
    assert sorted(found.costs) == sorted(f"layers.{layer}.{part}" for layer in range(3) for part in ("attn", "mlp"))
    assert all(0 < own["int8-weight"] < own["gptq"] for own in found.costs.values())
    sizes = [row.rank_bytes for row in found.table]
    assert sizes == sorted(sizes, reverse=True)
    assert len(set(sizes)) == len(sizes) > 6
    assert (found.table[0].kl, found.table[0].parts) == (0, {"none": 6})
    rank = tmp_path / "artifact" / "weights" / "rank0.safetensors"
    assert rank.stat().st_size == pytest.approx(sizes[-1], rel=0.02)
    (trade,) = [note for stage, note in heard.stages if stage == "mixture"]
    assert trade.count("a rank") == len(sizes)
    assert "tokens/s" in trade


def test_a_mixture_is_built_layer_by_layer_and_says_so(mixed: Requests, tmp_path: Path) -> None:
    table = mixture_of(built(mixed(Quant(ANY, text=SHORT)))).table
    # The gate's own limit lets a rung in the middle pass, and none with fewer bytes.
    middle = len(table) // 2
    limits = Tolerance(perplexity=10, kl=(table[middle].kl + table[middle + 1].kl) / 2, stream=10)
    heard, asked = Heard(), Quant(replace(AUTO, tolerance=limits), text=SHORT)
    made = built(mixed(asked), heard)
    found, section = mixture_of(made), made.section
    assert isinstance(section, Segments)
    assert 0 < found.chosen < len(table) - 1
    assert any("is refused, the next is tried" in text for text in heard.warnings)
    assert leftovers(tmp_path) == []
    assert not list(tmp_path.glob("artifact.numerics*"))
    names = {"gptq": "grouped_64", "int8-weight": "weight_only", "none": "float"}
    assert section.products == tuple(
        (names[found.parts[f"layers.{layer}.attn"]], names[found.parts[f"layers.{layer}.mlp"]]) for layer in range(3)
    )
    assert len(set(found.parts.values())) > 1
    assert section.layers == tuple((f"attn-{attn}", f"mlp-gated-{mlp}") for attn, mlp in section.products)
    assert {name.rpartition(".")[0] for name in section.packages} == {
        "embed", "head", *(name for layer in section.layers for name in layer)
    }  # fmt: skip
    assert_repeats_its_scheme(made)
    check_layout(made, tmp_path / "artifact")
    names_of_parts = list(found.parts.values())
    text = quant_text(quant_of(made.quantisation))
    assert all(f"{names_of_parts.count(name)} {name}" in text for name in set(names_of_parts))
    again = plan_of(mixed(quant_of(made.quantisation)))
    assert again.digest == made.plan_digest
    mixed_bytes = step_bytes(made.config, 2, made.dtype, section.products)
    assert step_bytes(made.config, 2, made.dtype, "grouped_64") < mixed_bytes < step_bytes(made.config, 2, made.dtype)
    command = json.loads((tmp_path / "artifact" / PROVENANCE).read_text())["predicate"]["buildDefinition"]
    assert "--quant auto --max-perplexity-increase 10" in json.dumps(command).replace('", "', " ")


def test_bytes_shrink_with_the_limit_and_none_is_lossless(mixed: Requests) -> None:
    sizes = []
    for limit in (0.0, 1e-5, 1e-4, 1e-3, 10.0):
        made = built(mixed(Quant(ANY, text=SHORT, max_perplexity_increase=limit)))
        found = mixture_of(made)
        sizes.append(found.table[found.chosen].rank_bytes)
        assert made.quantisation is not None
        assert made.quantisation.gate.perplexity_increase <= limit + 1e-5
        if limit == 0:
            assert made.quantisation.gate.kl < 1e-6
            assert set(found.parts.values()) == {"none"}
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > sizes[-1]


def test_a_second_build_measures_nothing(mixed: Requests) -> None:
    built(mixed(Quant(ANY, text=SHORT)))
    heard = Heard()
    built(mixed(Quant(ANY, text=SHORT, max_perplexity_increase=9.0)), heard)
    notes = dict(heard.stages)
    assert (notes["costs"], notes["trade"], notes["feedback"]) == ("cached", "cached", "cached")


def test_widths_without_groups_leave_int8(quantized: Requests, tmp_path: Path) -> None:
    heard = Heard()
    made = built(quantized(Quant(ANY, text=SHORT)), heard)
    assert set(mixture_of(made).parts.values()) <= {"int8-weight", "none"}
    assert any("without one of the schemes" in text for text in heard.warnings)


def test_targets_whose_layers_are_alike_refuse(mixed: Requests) -> None:
    for target in ("trtllm", "vllm", "neuron", "checkpoint"):
        with pytest.raises(RefusedError) as found:
            build(mixed(Quant(AUTO), target=target, tp=1), toolchain=StandIn())
        assert any(word in found.value.message for word in ("auto", "does not quantize", "quantizes nothing"))


def test_too_little_memory_is_refused_with_what_it_takes(mixed: Requests) -> None:
    with pytest.raises(MemoryCeilingError, match="the ceiling is"):
        build(mixed(Quant(AUTO, text=SHORT), resources=Resources(max_memory=1 << 20)), toolchain=StandIn())


def test_convert_alone_cannot_choose(mixed: Requests, tmp_path: Path) -> None:
    with pytest.raises(UsageError) as found:
        convert_to(mixed(Quant(AUTO)), tmp_path / "ranks")
    assert "--until convert" in found.value.hint


def test_a_plan_says_that_the_build_chooses(mixed: Requests) -> None:
    made: Plan = plan_of(mixed(Quant(AUTO)))
    assert any("the build measures" in note for note in made.notes)
    assert {need.stage for need in made.needs} >= {"feedback", "mixture", "gate"}
