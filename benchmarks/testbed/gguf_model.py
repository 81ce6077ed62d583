"""GGUF file of a benchmark's model: a Llama or Qwen2 of a checkpoint's weights, in one of the formats of llama.cpp.

    python gguf_model.py CHECKPOINT TARGET.gguf BF16|F16|Q8_0|Q4_0 HEAD

HEAD: format of the head, and of the table of embeddings where it is the head.
Runs in the environment of the peers, which has `gguf` and numpy but nothing of this project. Norms are float32. The
vocabulary is made of numbered words: prompts are token ids. Rows of q and k stay in the order of the checkpoint, which
changes what the model says and not what it costs.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import numpy as np
from numpy.typing import NDArray

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight",
    "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
}
LAYER = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def tensors(checkpoint: Path) -> Iterator[tuple[str, NDArray[np.uint16]]]:
    """Tensors of model.safetensors, all bfloat16, as bits."""
    file = np.memmap(checkpoint / "model.safetensors", np.uint8, "r")
    length = int(file[:8].view(np.uint64)[0])
    for name, entry in json.loads(bytes(file[8 : 8 + length])).items():
        if name != "__metadata__":
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            yield name, np.frombuffer(file[begin:end].tobytes(), np.uint16).reshape(entry["shape"])


def gguf_name(name: str) -> str:
    """Name of a tensor in GGUF (gguf-py/gguf/constants.py of llama.cpp)."""
    if name in NAMES:
        return NAMES[name]
    _, _, layer, rest = name.split(".", 3)
    part, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{LAYER[part]}.{kind}"


def main() -> None:
    checkpoint, target, form = Path(sys.argv[1]), Path(sys.argv[2]), gguf.GGMLQuantizationType[sys.argv[3]]
    head = gguf.GGMLQuantizationType[sys.argv[4]]
    config = json.loads((checkpoint / "config.json").read_text())
    of_head = "model.embed_tokens.weight" if config.get("tie_word_embeddings") else "lm_head.weight"
    writer = gguf.GGUFWriter(target, config["model_type"], use_temp_file=True)
    writer.add_name("benchmark")
    writer.add_file_type(gguf.LlamaFileType[f"MOSTLY_{sys.argv[3]}"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    count = config["vocab_size"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(["<unk>", "<s>", "</s>", *(f"w{i}" for i in range(count - 3))])
    writer.add_token_types(
        [gguf.TokenType.UNKNOWN, *[gguf.TokenType.CONTROL] * 2, *[gguf.TokenType.NORMAL] * (count - 3)]
    )
    writer.add_token_merges(["w 0"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(0)
    for name, bits in tensors(checkpoint):
        values = (bits.astype(np.uint32) << 16).view(np.float32)
        if bits.ndim == 1:
            writer.add_tensor(gguf_name(name), values)
        else:
            own = head if name == of_head else form
            writer.add_tensor(gguf_name(name), gguf.quants.quantize(values, own), raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
