"""Requirements of an artifact, from its manifest: the arithmetic of its plan, on the sizes of its files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.deploy.preflight import rank_bytes, ranks
from compiler.lmi.capacity import Demand, workspace_bytes
from compiler.lmi.fit import Needs
from compiler.model.dtypes import DTYPES
from compiler.model.lazy import ITEMSIZE
from compiler.model.parallel import cache_bytes, head_layout
from compiler.targets import load

if TYPE_CHECKING:
    from compiler.artifact.manifest import Manifest


def needs_of(manifest: Manifest) -> Needs:
    """Requirements of an artifact. Raises ArtifactError for a model of a later version."""
    return Needs(
        name=manifest.name,
        kind=manifest.device.kind,
        demand=_demand(manifest),
        size=sum(file.size for file in manifest.files),
        capability=manifest.device.capability,
        isa=manifest.device.isa or "",
        image=manifest.section.image_tag or "",
        stand_in=manifest.stand_in,
    )


def _demand(manifest: Manifest) -> Demand:
    """Memory of one copy at the artifact's own limits."""
    config, limits, tp, pp = manifest.config, manifest.limits, manifest.parallel.tp, manifest.parallel.pp
    target = load(manifest.target)
    options, layout = target.packager.options_of(manifest), target.layout
    heads = layout.heads(config, tp, options) if layout else head_layout(config.heads, config.kv_heads, tp)
    itemsize = ITEMSIZE[DTYPES[manifest.dtype]]
    quantized = manifest.quantisation is not None and bool(manifest.quantisation.kv_cache)
    count = ranks(manifest)
    return Demand(
        ranks=count,
        weights=rank_bytes(manifest) or sum(file.size for file in manifest.files) // count,
        cache=cache_bytes(config, heads, pp, 1 if quantized else itemsize),
        workspace=workspace_bytes(config, tp, itemsize, limits.max_batch, limits.max_positions, limits.prefill_chunk),
        batch=limits.max_batch,
        length=limits.max_positions,
    )
