"""Quantization: number formats, schemes, and the arithmetic on weights between them.

formats        number formats, one file each; `format` defines their interface
schemes        formats of weights, activations and caches, with tolerances
vendors        TensorRT-LLM's names of the schemes
request        quantization as requested by the user
smooth, awq    searches for scales of columns; `groups`: layers that share them
scaling        scales as a toolchain's kernels read them
parts          scales as canonical tensors, from maxima; `scale_tensors`: their names and shapes
rounding       weights to units, block by block
prequantized   checkpoints that are quantized already
"""
