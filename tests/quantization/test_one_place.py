"""Where number formats and schemes are named: in their own files and tables, and nowhere else."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import compiler
from compiler.quantization import formats
from compiler.quantization.schemes import SCHEMES

ROOT = Path(compiler.__file__).parent
NAMES = sorted({*formats.available(), *SCHEMES, "e4m3"}, key=len, reverse=True)
NAMED = re.compile("|".join(rf"\b{re.escape(name)}\b" for base in NAMES for name in (base, base.upper())))
ALLOWED = {
    "quantization/formats/fp8.py",
    "quantization/formats/int4.py",
    "quantization/formats/int8.py",
    "quantization/schemes.py",
    "quantization/vendors.py",
    "quantization/prequantized/formats.py",  # the names of others' checkpoint formats
    "targets/inductor/ops.py",  # the names of native kernels
    "targets/trtllm/judge_quant.py",  # shares nothing with what it judges
}


def _strings(path: Path) -> list[str]:
    """String constants that are not docstrings."""
    tree = ast.parse(path.read_text())
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    constants = [node for node in ast.walk(tree) if isinstance(node, ast.Constant) and id(node) not in docs]
    return [node.value for node in constants if isinstance(node.value, str)]


def test_a_format_is_named_in_few_files() -> None:
    found = {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        if any(NAMED.search(string) for string in _strings(path))
    }
    assert found == ALLOWED
    assert len(ALLOWED) <= 8


def test_a_name_in_a_string_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text('"""fp8"""\n\nX = f"--quant fp8 {1}"\nY = "FP8"\nZ = "fp8_per_token"\n"""int8"""\n')
    assert {string: bool(NAMED.search(string)) for string in _strings(path)} == {
        "--quant fp8 ": True,
        "FP8": True,
        "fp8_per_token": False,
    }
