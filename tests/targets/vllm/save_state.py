"""Shards by vLLM's own loader and `ShardedStateLoader.save_model`: run in an environment that has vLLM, alone.

    python save_state.py TP OUT MODEL...      OUT/tp{TP}/<name of the model's folder>/model-rank-{r}-part-0.safetensors

The repacking of weights for kernels of this CPU is left out: `load_format=sharded_state` reads shards before it. Models
of one call share their processes; vLLM's registry asks each class in this process instead of one of its own.
"""

from __future__ import annotations

import json
import os
import socket
import sys
from multiprocessing import get_context
from pathlib import Path


def run(rank: int, tp: int, out: str, models: list[str], port: int) -> None:
    """Save the shard of one rank of every model; a failure is one line and ends the process with 1."""
    os.environ |= {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_DIST_IDENT": f"golden_{port}",
        "VLLM_LOGGING_LEVEL": "ERROR",
    }
    import torch
    from vllm.model_executor.layers.fused_moe.oracle import unquantized
    from vllm.model_executor.model_loader import base_loader
    from vllm.model_executor.models import registry

    torch.set_num_threads(1)
    vars(torch.accelerator)["empty_cache"] = lambda: None  # there is no accelerator
    registry._run_in_subprocess = lambda ask: ask()
    base_loader.process_weights_after_loading = lambda *_, **__: None
    select = unquantized.select_unquantized_moe_backend

    def any_backend(moe_config: object) -> object:
        """A class of experts that no kernel of this CPU computes (those with biases) is loaded all the same."""
        try:
            return select(moe_config)
        except NotImplementedError:
            backend = unquantized.UnquantizedMoeBackend.CPU
            return backend, unquantized.backend_to_kernel_cls(backend)[0]

    for module in list(sys.modules.values()):
        if vars(module).get("select_unquantized_moe_backend") is select:
            vars(module)["select_unquantized_moe_backend"] = any_backend
    for model in models:
        _register(model)
    failed = [model for model in models if not _saved(model, rank, tp, Path(out) / f"tp{tp}", port)]
    sys.exit(1 if failed else 0)


def _register(model: str) -> None:
    """Let transformers read a config.json whose class comes with the published checkpoint, as code."""
    from transformers import CONFIG_MAPPING, AutoConfig, PretrainedConfig

    kind = json.loads((Path(model) / "config.json").read_text())["model_type"]
    if kind not in CONFIG_MAPPING and kind == "internlm2":
        AutoConfig.register(kind, type("InternLM2Config", (PretrainedConfig,), {"model_type": kind}))


def _saved(model: str, rank: int, tp: int, out: Path, port: int) -> bool:
    from vllm.config import set_current_vllm_config
    from vllm.distributed import destroy_model_parallel, init_distributed_environment, initialize_model_parallel
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.model_loader import get_model
    from vllm.model_executor.model_loader.sharded_state_loader import ShardedStateLoader

    try:
        config = EngineArgs(
            model=model,
            tensor_parallel_size=tp,
            dtype="bfloat16",
            skip_tokenizer_init=True,
            enforce_eager=True,
            max_model_len=64,
            distributed_executor_backend="mp" if tp > 1 else "uni",
        ).create_engine_config()
        with set_current_vllm_config(config):
            init_distributed_environment(tp, rank, f"tcp://127.0.0.1:{port}", rank, "gloo")
            destroy_model_parallel()
            initialize_model_parallel(tp)
            loaded = get_model(vllm_config=config)
        folder = out / Path(model).name
        folder.mkdir(parents=True, exist_ok=True)
        ShardedStateLoader.save_model(loaded, str(folder))
    except Exception as error:  # noqa: BLE001
        print(
            "FAIL", Path(model).name, tp, rank, type(error).__name__, str(error)[-400:].replace("\n", " | "), flush=True
        )
        return False
    print("OK", Path(model).name, tp, rank, type(loaded).__name__, flush=True)
    return True


def main() -> int:
    """Start a process for each rank; 1 if one of them failed."""
    tp, out, models = int(sys.argv[1]), sys.argv[2], sys.argv[3:]
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    context = get_context("spawn")
    ranks = [context.Process(target=run, args=(rank, tp, out, models, port)) for rank in range(tp)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join()
    return max(process.exitcode or 0 for process in ranks)


if __name__ == "__main__":
    sys.exit(main())
