"""Quantization: number formats, schemes, and the arithmetic on weights between them.

formats        one file a number format; `format` says what such a file defines
schemes        formats of weights, activations and caches, and what each may cost
vendors        TensorRT-LLM's names of the schemes
request        a quantization as the user asks for it
smooth, awq    searches for scales of columns; `groups` says which layers share them
scaling        the scales that a toolchain's kernels want
parts          scales as canonical tensors, from maxima; `planned` says which there will be
rounding       weights to units, block by block
prequantized   checkpoints that come quantized
"""
