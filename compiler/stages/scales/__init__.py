"""What a scheme multiplies by: `scale` makes it of a calibration, `search` finds it, `matrices` reads the weights."""
