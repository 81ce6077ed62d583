from __future__ import annotations

import subprocess
import sys

_SCRIPT = """
import gc
import sys
from compiler.runtime.lean import import_torch
import_torch()
import torch
assert gc.isenabled()
assert gc.get_freeze_count() > 100000
assert "torch._meta_registrations" not in sys.modules
assert torch.ones(3, 3).bfloat16().matmul(torch.ones(3, 1).bfloat16()).sum() == 9
import torch._meta_registrations
assert torch._meta_registrations.register_meta
import_torch()
assert "torch._meta_registrations" in sys.modules

class Twice(torch.nn.Module):
    def forward(self, x):
        return torch.linalg.solve(x, x) * 2

program = torch.export.export(Twice(), (torch.eye(3),))
assert torch.equal(program.module()(torch.eye(3)), 2 * torch.eye(3))
"""


_UNTESTED_RELEASE = """
import sys
from compiler.runtime import lean
lean.TESTED = ("1.0",)
lean.import_torch()
import torch
assert sys.modules["torch._meta_registrations"].register_meta
assert torch._meta_registrations is sys.modules["torch._meta_registrations"]
"""


def test_an_untested_release_is_imported_whole() -> None:
    done = subprocess.run([sys.executable, "-c", _UNTESTED_RELEASE], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_torch_computes_without_its_tracing_and_can_have_it_later() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
