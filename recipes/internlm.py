"""InternLM 1: Llama, with biases on all of attention if config.json sets `bias`."""

from dataclasses import replace

from compiler.model import ConfigMap, Default, Traits
from recipes import llama

RECIPE = replace(
    llama.RECIPE,
    hf_architectures=("InternLMForCausalLM",),
    models={"internlm-7b": "internlm/internlm-7b", "internlm-20b": "internlm/internlm-20b"},
    config=ConfigMap(rope_theta=("rotary.base", Default("rope_theta", value=10000.0))),
    traits=Traits(qkv_bias="bias", out_bias="bias"),
    # Up to max_position_embeddings, "dynamic" rotation equals the plain one.
    assumes={"rotary.type": ("origin", "dynamic")},
)
