"""Numerics gate: the cost of quantization, measured on rank files.

measure     both sides, block by block              sides       the source, rank files, a judge
parts       errors of the parts of a layer          predictions evidence from the last states
simulation  the scheme itself, without files        evidence    losses of blocks of tokens, intervals
extent      layers that are compared                verdict     figures against limits
report      text, JSON and HTML                     chart       its SVG
"""
