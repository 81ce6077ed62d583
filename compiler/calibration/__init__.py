"""Activations of a model on a text, and the scales that are computed from them.

samples       token ids of a text or a table
activations   runs them through the model, a layer at a time
outliers      channels that dominate an input
matrices      weights as float32, block by block
search        what columns are multiplied by before they are rounded
scales        scales of rows, groups, inputs and caches
"""
