"""Target `vllm`."""
