"""Target `toy`: an option, a kind of device and a tree of outputs of its own; it takes the checkpoint as it is."""
