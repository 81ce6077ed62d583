"""Names of dtypes in safetensors and in torch."""

from __future__ import annotations

TORCH = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2", "U8": "uint8", "BOOL": "bool", **{f"I{bits}": f"int{bits}" for bits in (64, 32, 16, 8)},
}  # fmt: skip
"""torch's name of each safetensors dtype."""

DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}
"""Dtypes of artifacts: torch's name -> safetensors' name."""
