"""Target `trtllm`: TensorRT-LLM checkpoints, written and judged on any CPU, and engines, built by `trtllm-build`."""
