"""Target `vllm`: weights in vLLM's own shards, written and judged on any CPU, for a server that starts from them."""
