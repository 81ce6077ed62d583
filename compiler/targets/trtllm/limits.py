"""Build limits of engines under TensorRT-LLM's names, from an artifact's limits."""

from __future__ import annotations

from compiler.errors import RefusedError
from compiler.model.limits import Limits
from compiler.targets.trtllm.options import TrtllmOptions
from compiler.targets.trtllm.section import BuildLimits

ANSWER = 512
"""Default number of tokens that a prompt leaves for the answer: LMI's own default of `max_output_len`."""


def build_limits(limits: Limits, options: TrtllmOptions) -> BuildLimits:
    """Build limits of an artifact's engines. Raises RefusedError for lengths that contradict each other."""
    most = limits.max_positions
    prompt = options.max_input_len if options.max_input_len is not None else most - min(ANSWER, most // 2)
    # Prompts are processed in chunks of this many tokens, or whole without chunking.
    step = max(limits.prefill_chunk * limits.max_batch, most)
    step = step if options.max_num_tokens is None else options.max_num_tokens
    if not 1 <= prompt < most:
        raise RefusedError(
            f"`--max-input-len` takes 1 to {most - 1}, to leave room for an answer; found {prompt}",
            hint="`--max-seq-len` counts prompt and answer.",
        )
    if step < limits.max_batch:
        raise RefusedError(
            f"`--max-num-tokens` takes at least one for each of the {limits.max_batch} rows; found {step}",
            hint="Raise it, or lower `--max-batch-size`.",
        )
    return BuildLimits(max_batch_size=limits.max_batch, max_input_len=prompt, max_seq_len=most, max_num_tokens=step)
