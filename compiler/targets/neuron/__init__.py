"""Target `neuron`: shards, one HLO graph for each bucket, and the software that endpoints on NeuronCores load."""
