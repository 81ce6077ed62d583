"""The mathematics of a decoder over roles and traits, in torch."""
