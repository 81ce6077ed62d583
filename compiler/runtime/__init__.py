"""Runs an artifact of target inductor.

generate    load(artifact) -> Model: stream, generate, logits        params      what is asked, what comes back
batch       rows that start together and leave one by one            sampling    logits -> token
engine      all ranks as one; one rank's share of a step             text        tokens -> text
load        rank file + packages -> share                            tokenizer   the artifact's tokenizer
weights     rank file -> tensors, mapped
package     one compiled package                                     commands    rank 0 -> followers
ranks       follower processes, watched                              group       sums over ranks: gloo, nccl
lean        import torch, faster
follower    a rank other than 0                                      progress, postmortem    who stalled, and why
"""
