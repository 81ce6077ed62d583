"""Runtime of target inductor's artifacts.

generate    load(artifact) -> Model: stream, generate, logits        params      request and result of a generation
batch       rows that start together and leave one by one            sampling    logits -> token
engine      all ranks as one; one rank's share of a step             text        tokens -> text
load        rank file + packages -> share                            tokenizer   the artifact's tokenizer
weights     rank file -> tensors, mapped                             commands    rank 0 -> followers
package     one compiled package                                     group       sums over ranks: gloo, nccl
ranks       follower processes, watched                              progress, postmortem    diagnosis of a stalled rank
follower    a rank other than 0                                      lean, once  fast import of torch; one answer, timed
"""
