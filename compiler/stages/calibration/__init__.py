"""What activations are like: `samples` of a text, `calibrate` runs them through the model, `outliers` are in them."""
