"""Parts of target `inductor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.decoder import segments
from compiler.decoder.rankfile import layout
from compiler.model.parallel import check_parallel
from compiler.targets.inductor import schemes
from compiler.targets.inductor.device import device
from compiler.targets.inductor.options import InductorOptions
from compiler.targets.inductor.runtime import SegmentRuntime
from compiler.targets.protocols import Compiler, Packager, RankLayout, Support, Target
from compiler.targets.values import Contents, Need

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from compiler.artifact.manifest import Manifest
    from compiler.decoder.segments import SegmentSpec
    from compiler.model.config import ModelConfig
    from compiler.model.layout import Layout
    from compiler.model.lazy import Lazy, RankPlan
    from compiler.model.limits import Limits
    from compiler.model.roles import TensorId
    from compiler.quantization.request import Quant
    from compiler.quantization.scaling import Scaling
    from compiler.targets.values import Made, Planned, Toolchain


class SegmentSupport(Support[InductorOptions]):
    """Support of every model that a recipe describes."""

    group_sizes = schemes.GROUP_SIZES

    def check(self, config: ModelConfig, tp: int, options: InductorOptions, limits: Limits | None = None) -> None:
        """Raise ParallelError if `tp` cannot split the model."""
        check_parallel(config, tp)

    def quantized(self, config: ModelConfig, quant: Quant, options: InductorOptions) -> tuple[Quant, InductorOptions]:
        """See schemes.py."""
        return schemes.quantized(config, quant, options)

    def scaling(self, config: ModelConfig, quant: Quant, options: InductorOptions) -> Scaling:
        """See schemes.py."""
        return schemes.scaling(config, quant, options)


class SegmentLayout(RankLayout[InductorOptions]):
    """The decoder's rank files, without a judge: the runtime runs the compiled packages."""

    kernels = staticmethod(schemes.kernels)

    def layouts(self, config: ModelConfig, tp: int, options: InductorOptions) -> Sequence[Layout]:
        """Layout of the decoder's rank file."""
        return layout.layouts(config, tp, options.head)

    def rank_plans(
        self, config: ModelConfig, tp: int, tensors: Mapping[TensorId, Lazy], dtype: str, options: InductorOptions
    ) -> Sequence[RankPlan]:
        """The decoder's rank files for the products of `options`."""
        return layout.rank_plans(config, tp, tensors, dtype, options.products, options.head)


def _layers(config: ModelConfig, tp: int, options: InductorOptions) -> Sequence[Mapping[str, str]]:
    """Segments of every layer, with their products."""
    whole = segments.compiled_whole(config, tp, options.products)
    return segments.layer_segments(config, options.products, whole=whole)


class SegmentCompiler(Compiler[InductorOptions]):
    """Compilation of packages by processes of this project, see build.py."""

    device = staticmethod(device)

    def toolchain(self) -> Toolchain:
        """The module build.py."""
        from compiler.targets.inductor import build

        return build

    def needs(self, config: ModelConfig, tp: int, options: InductorOptions) -> Sequence[Need]:
        """Memory of a compile process (torch, a segment's graph, C++ compiler), and disk of packages (no weights)."""
        count = 2 + len({name for layer in _layers(config, tp, options) for name in layer})
        note = f"{count} segments, prefill and decode; no weights"
        return (Need("compile", 2 << 30, count * 2 * (2 << 20), note),)

    def specs(self, plan: Planned[InductorOptions], source: str) -> Sequence[SegmentSpec]:
        """One spec per package; it depends neither on weights nor on the number of layers."""
        config, tp, asked = plan.config, plan.tp, plan.options
        whole = segments.compiled_whole(config, tp, asked.products)
        form = plan.dtype, plan.limits, asked.products, asked.cache, asked.head
        return segments.specs(config, tp, *form, whole=whole)


class SegmentPackager(Packager[InductorOptions]):
    """Artifacts of rank files and packages; plans name rank files with their folder."""

    def contents(self, plan: Planned[InductorOptions], made: Made) -> Contents:
        """Rank files, packages, tokenizer."""
        from compiler.runtime.section import Segments

        packages = {name: f"packages/{part.name}" for name, (part,) in made.compiled.items()}
        compiled = [part.at(packages[name]) for name, (part,) in made.compiled.items()]
        return Contents(
            [*made.weights, *compiled, *made.tokenizer],
            Segments(
                weights=tuple(layout.rank_file(rank) for rank in range(plan.tp)),
                layers=tuple(map(tuple, _layers(plan.config, plan.tp, plan.options))),
                packages=packages,
                products=plan.options.products,
                cache=plan.options.cache,
                head=plan.options.head,
            ),
        )

    def options_of(self, manifest: Manifest) -> InductorOptions:
        """Options of the artifact's segments."""
        from compiler.runtime.section import runnable

        return InductorOptions.of(runnable(manifest))


TARGET = Target(
    name="inductor",
    options=InductorOptions,
    support=SegmentSupport(),
    layout=SegmentLayout(),
    compiler=SegmentCompiler(),
    packager=SegmentPackager(),
    runtime=SegmentRuntime(),
)
