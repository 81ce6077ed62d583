"""Quantization in LMI's properties, by TensorRT-LLM's names.

LMI 0.25 to 0.32 (serving/docs/lmi/user_guides/trt_llm_user_guide.md at v0.29.0):
    option.quantize=smoothquant   option.smoothquant_alpha (0.8), .smoothquant_per_token (false),
                                  .smoothquant_per_channel (false), and .multi_query_mode (false) for models whose
                                  query heads share key heads
    option.quantize=awq           option.q_format (int4_awq), .calib_size (512), .awq_block_size (128)
    option.quantize=fp8           option.calib_size, .calib_batch_size (32), .use_fp8_context_fmha (false)
LMI 0.33 (serving/docker/partition/trt_llm_partition.py on 0.33.0-dlc):
    option.quant_algo, .kv_cache_quant_algo: names of TensorRT-LLM's QuantAlgo
    option.smoothquant_val, .group_size
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from compiler.errors import RefusedError, UsageError
from compiler.lmi.images import Release
from compiler.lmi.properties import Properties, Value
from compiler.quantization.vendors import VENDOR_SCHEMES

ALPHA = 0.8
"""Documented default of `option.smoothquant_alpha` (LMI 0.25 to 0.32)."""
_OWN_NAMES_SINCE: Release = (0, 33)


@dataclass(frozen=True)
class LmiQuantization:
    """Quantization in TensorRT-LLM's terms. `quant_algo`: name of the scheme, "" for none; `kv_cache_quant_algo`: that
    of the KV cache.

    `alpha`: SmoothQuant's migration strength, 0 to 1. `group_size`: weights that share an AWQ scale.
    `calibration_size`: number of samples. `multi_query`: query heads share key heads, a property that SmoothQuant needs
    (0.25 to 0.32). None: the scheme has no such value, or the container's default applies.
    """

    quant_algo: str = ""
    kv_cache_quant_algo: str = ""
    alpha: float | None = None
    group_size: int | None = None
    calibration_size: int | None = None
    multi_query: bool = False


NONE = LmiQuantization()


def quantization_of(properties: Properties) -> LmiQuantization:
    """Quantization of a serving.properties.

    Raises:
        UsageError: options of a scheme that is not selected, or values outside their range.
    """
    entries = {name.removeprefix("option."): value for name, value in properties.entries.items()}
    return (_from_algo if properties.release >= _OWN_NAMES_SINCE else _from_quantize)(entries)


def quant_properties(release: Release, asked: LmiQuantization) -> dict[str, Value]:
    """Properties that record a quantization under a release, by full name; {} for none.

    Raises:
        RefusedError: the release has no properties for the scheme.
    """
    if not asked.quant_algo and not asked.kv_cache_quant_algo:
        return {}
    made = (_to_algo if release >= _OWN_NAMES_SINCE else _to_quantize)(release, asked)
    found = {f"option.{name}": value for name, value in made.items() if value is not None}
    return dict(Properties(release, found).entries)


def _from_quantize(entries: Mapping[str, Value]) -> LmiQuantization:
    rows = [row for row in VENDOR_SCHEMES.values() if row.quantize and row.quantize == entries.get("quantize")]
    smooths = any(row.smooths for row in rows)
    companions = sorted(name for name in entries if name.startswith("smoothquant_") or name == "multi_query_mode")
    if companions and not smooths:
        asked = next(row.quantize for row in VENDOR_SCHEMES.values() if row.quantize and row.smooths)
        raise UsageError(
            f"{', '.join(f'`option.{name}`' for name in companions)}: for SmoothQuant, which is not selected",
            hint=f"add `option.quantize={asked}`, or leave them out",
        )
    if not rows:
        return NONE
    calibration = _whole(entries.get("calib_size", entries.get("awq_calib_size")))
    if smooths:
        alpha = float(entries.get("smoothquant_alpha", ALPHA))
        if not 0 <= alpha <= 1:
            raise UsageError(
                f"expected `option.smoothquant_alpha` from 0 to 1; found {alpha}", hint="0.5 to 0.8 is usual"
            )
        split = (bool(entries.get("smoothquant_per_channel", False)), bool(entries.get("smoothquant_per_token", False)))
        row = next(row for row in rows if (row.per_channel, row.per_token) == split)
        multi_query = bool(entries.get("multi_query_mode", False))
        return LmiQuantization(row.name, alpha=alpha, calibration_size=calibration, multi_query=multi_query)
    if not rows[0].q_format:
        return LmiQuantization(rows[0].name, calibration_size=calibration)
    spelled = str(entries.get("q_format", entries.get("awq_format", rows[0].q_format)))
    by_format = {row.q_format: row for row in rows}
    if spelled not in by_format:
        raise UsageError(
            f"expected `option.q_format` to be one of {', '.join(by_format)}; found `{spelled}`",
            hint=f"leave it out for `{rows[0].q_format}`",
        )
    group = _whole(entries.get("awq_block_size")) or 128
    return LmiQuantization(by_format[spelled].name, group_size=group, calibration_size=calibration)


def _from_algo(entries: Mapping[str, Value]) -> LmiQuantization:
    alpha = entries.get("smoothquant_val")
    return LmiQuantization(
        str(entries.get("quant_algo", "")).upper(),
        str(entries.get("kv_cache_quant_algo", "")).upper(),
        None if alpha is None else float(alpha),
        _whole(entries.get("group_size")),
        _whole(entries.get("calib_batches")),
    )


def _to_quantize(release: Release, asked: LmiQuantization) -> dict[str, Value | None]:
    row = VENDOR_SCHEMES.get(asked.quant_algo)
    sized = {"calib_size" if release >= (0, 27) else "awq_calib_size": asked.calibration_size}
    if row is not None and row.quantize and row.smooths:
        return {
            "quantize": row.quantize,
            "smoothquant_alpha": asked.alpha,
            "smoothquant_per_token": row.per_token,
            "smoothquant_per_channel": row.per_channel,
            "multi_query_mode": asked.multi_query,
        }
    if row is not None and row.q_format and release >= (0, 26):
        formatted = {"q_format" if release >= (0, 27) else "awq_format": row.q_format}
        grouped = {"awq_block_size": asked.group_size} if release >= (0, 28) else {}
        return {"quantize": row.quantize, **formatted, **grouped, **sized}
    if row is not None and row.quantize and not row.q_format and release >= (0, 28):
        return {"quantize": row.quantize, **sized}
    raise RefusedError(
        f"LMI {release[0]}.{release[1]} has no properties for {asked.quant_algo or 'this KV cache'}",
        hint="leave the record out: engines are served without it, and the manifest has it",
    )


def _to_algo(release: Release, asked: LmiQuantization) -> dict[str, Value | None]:
    del release
    return {
        "quant_algo": asked.quant_algo or None,
        "kv_cache_quant_algo": asked.kv_cache_quant_algo or None,
        "smoothquant_val": asked.alpha,
        "group_size": asked.group_size,
        "calib_batches": asked.calibration_size,
    }


def _whole(value: Value | None) -> int | None:
    return None if value is None else int(value)
