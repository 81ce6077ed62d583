"""Drivers: software of vendors whose result an endpoint loads, one file each.

No loader takes a foreign executable: transformers-neuronx, neuronx-distributed-inference and optimum-neuron find one by
a key of their own graph, or carry it inside `model.pt`. So a driver runs the vendor's own call with the sizes of our
plan, and compares what it made with the plan.

    graph      our graphs and shards, for a loader of one's own; nothing published loads them
    optimum    optimum-neuron: `optimum-cli export neuron`                  huggingface-vllm-inference-neuronx
    nxdi       neuronx-distributed-inference: `model.compile`               pytorch-inference-vllm-neuronx
    tnx        transformers-neuronx: `cpu_compile` and `save`               LMI 0.25 to 0.30, djl-inference

Which of them was run on NeuronCores: none.
"""
