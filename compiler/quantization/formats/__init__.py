"""Number formats that weights, activations and caches are rounded to; one file each."""
