"""InternLM 1: Llama with biases on all of attention where config.json says `bias`."""

from dataclasses import replace

from compiler.model import ConfigMap, Default, Traits
from recipes import llama

RECIPE = replace(
    llama.RECIPE,
    hf_architectures=("InternLMForCausalLM",),
    models={"internlm-7b": "internlm/internlm-7b", "internlm-20b": "internlm/internlm-20b"},
    config=ConfigMap(rope_theta=("rotary.base", Default("rope_theta", value=10000.0))),
    traits=Traits(qkv_bias="bias", out_bias="bias"),
    # "dynamic" rotation is the plain one within max_position_embeddings.
    assumes={"rotary.type": ("origin", "dynamic")},
)
