"""From what a user asks for to an artifact in its place. Only these files know the order of the stages, and the cache.

requests    what is asked for, typed; the plan            build       the order of the stages
properties  ... as LMI spells it
source      what stands for a source in keys              convert     rank files and nothing else
origin      what an artifact says of its source           place       package, verify, put in place
cached      each stage behind the cache                   finish      engines that were built elsewhere
scaled      ... those that quantisation adds in front     delegate    models that only a container image compiles
gated       ... the numerics gate                         against     an artifact against its source, once more
evidence    ... those that compare logits
"""
