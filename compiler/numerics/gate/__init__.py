"""What quantisation has cost: `sides` are compared by `measure`, the `verdict` is written down by `report`, `chart`."""
