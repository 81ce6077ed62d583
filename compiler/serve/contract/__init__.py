"""LMI's contract: body of a request -> rows to run, and their pieces -> bytes of the answer.

body         JSON within bounds, values of known types
parameters   a request's parameters -> sampling
lmi          answers of /invocations        openai    chat and text completions
asked        rows and the form of their answer: the result of all of them

The differences between releases are data: `compiler.lmi.contract`.
"""
