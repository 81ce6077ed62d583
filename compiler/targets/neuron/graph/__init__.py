"""Per-rank HLO graphs of target `neuron`, made with jax and executed on replicas of this machine's processor.

    signature.py      graphs of a plan; inputs and outputs of each, in order
    support.py        mathematics that graphs have
    elementary.py     norms, softmax, activations        collectives.py   between ranks
    linear.py         products with weights, int8 too    rotary.py        cosines and sines
    caches.py         writes into the KV cache           attention.py     the strategies of heads.py
    experts.py        mixture of experts                 model.py         the whole graph
    lower.py          graph -> bytes                     canonical.py     equal graphs, equal bytes
    proto.py          fields of HloModuleProto           lint.py          operations and dtypes that are allowed
    replicas.py       execution of the bytes

Nothing here but signature, support and proto may be imported without jax (extra `neuron`).
"""
