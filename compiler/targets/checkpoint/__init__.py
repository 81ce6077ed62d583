"""Target `checkpoint`: a model's own files for a vLLM, lmi-dist or DeepSpeed container of LMI. Nothing is compiled."""
