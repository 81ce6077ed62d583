"""Plugin of vLLM for tests: CUDA's compilation path on a CPU.

`platforms/cpu.py` of vLLM 0.32.0 downgrades mode VLLM_COMPILE to DYNAMO_TRACE_ONCE; this restores it, and leaves out
one pass over graphs, which names operators that only a CUDA build has.
"""

from __future__ import annotations

from typing import Any


def apply() -> None:
    """Restore the mode where the configuration is made, and leave out the pass in workers; the plugin's entry point."""
    from vllm.compilation.passes.utility.fix_functionalization import FixFunctionalizationPass
    from vllm.config import CompilationMode
    from vllm.platforms.cpu import CpuPlatform

    FixFunctionalizationPass.__call__ = _no_pass
    check = CpuPlatform.check_and_update_config.__func__
    if check.__name__ == "restored":
        return

    def restored(cls: Any, vllm_config: Any) -> None:
        check(cls, vllm_config)
        vllm_config.compilation_config.mode = CompilationMode.VLLM_COMPILE
        vllm_config.compilation_config.compile_sizes = []

    CpuPlatform.check_and_update_config = classmethod(restored)


def _no_pass(self: Any, graph: Any) -> None:
    """Leave the graph as it is."""
