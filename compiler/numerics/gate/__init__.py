"""Numerics gate: the cost of quantization, measured on rank files.

measure   both sides, block by block          sides    the source, rank files, a judge
verdict   figures against limits              report   text, JSON and HTML; chart: its SVG
"""
