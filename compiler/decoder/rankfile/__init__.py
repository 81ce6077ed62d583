"""The rank file of the decoder: names, order, shapes and shards of its tensors.

layout         canonical tensors -> file tensors of every rank
quantized      quantized weights and their scales
cache_scales   scales of a quantized KV cache
"""
