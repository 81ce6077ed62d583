"""Statistics of a model's activations on a text, and the scales computed from them.

samples       token ids of a text or a table
streams       residual streams on disk, one layer after the other
activations   statistics of activations, one layer at a time
outliers      channels that dominate an input
matrices      weights as float32, block by block
search        scales of columns before rounding
feedback      weights rounded with feedback of their errors, one layer at a time
scales        scales of rows, groups, inputs and caches
"""
