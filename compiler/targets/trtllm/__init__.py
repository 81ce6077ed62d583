"""Target `trtllm`: TensorRT-LLM checkpoints, written and judged on any CPU; engines where `trtllm-build` is."""
