"""Mixtures of schemes: the cost of every part of a layer in every scheme, measured, and the fewest bytes.

roundings   a layer with each of its parts in any scheme
costs       divergence of the model with one part rounded, of all parts in one pass
choice      parts in the order of cost per byte saved; mixtures of more and more of them
trade       cost of whole mixtures, in one pass
"""
