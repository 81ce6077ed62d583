"""Layout of matrices that vLLM splits as the checkpoint fused them, and whose outputs its classes gather and split.

    attn.qkv     InternLM2: rows of q, k and v of a kv head follow one another. vLLM takes the first heads x head_dim
                 rows for q, the next for k and v, splits each over the ranks, and sorts the outputs of all ranks
    mlp.gate_up  GLM: rows of gate, then rows of up; rank r has the r-th part of them all

Source: vllm/model_executor/models/internlm2.py of 0.32.0; `colwise_gather_output` in configuration_glm.py of
transformers. Both were compared with `save_sharded_state` (tests/targets/vllm).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compiler.model.layout import Layout
from compiler.model.ops import Concat, Each, Program, Rearrange, Repeat, Shard, Split
from compiler.model.parallel import head_layout

if TYPE_CHECKING:
    from compiler.model.config import ModelConfig
    from compiler.model.roles import TensorId


def gathered(name: str, role: str, inputs: tuple[TensorId, ...], config: ModelConfig, tp: int) -> Layout:
    """Layout of the file tensor `name`, from the weights of attn.q, .k and .v, or of mlp.gate and .up.

    Raises ParallelError where `tp` does not divide the heads.
    """
    if role == "mlp.gate_up":
        return Layout(name, inputs, ((Shard(0, tp),),), (), fuse=(Concat(0, (config.ffn, config.ffn)),))
    heads, kv, width = config.heads, config.kv_heads, config.head_dim
    queries = heads // kv
    of_rank = head_layout(heads, kv, tp)
    per_head: Program = (
        Each(((Rearrange("(kv q) d in -> kv (q d) in", (("kv", kv), ("q", queries), ("d", width))),), (), ())),
        Concat(1, (queries * width, width, width)),
        Rearrange("kv rows in -> (kv rows) in", (("kv", kv), ("rows", (queries + 2) * width))),
        Split(0, (heads * width, kv * width, kv * width)),
    )
    copies = of_rank.kv_copies
    keys: Program = (
        Rearrange("(kv d) in -> kv d in", (("kv", kv), ("d", width))),
        Repeat(0, copies),
        Rearrange("kv d in -> (kv d) in", (("kv", kv * copies), ("d", width))),
        Shard(0, tp),
    )
    rows = (of_rank.heads * width, of_rank.kv_heads * width, of_rank.kv_heads * width)
    return Layout(name, inputs, ((Shard(0, tp),), keys, keys), (Concat(0, rows),), fuse=per_head)
