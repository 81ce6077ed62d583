"""LMI's contract, as each release has it: body of a request -> rows to run, and their pieces -> bytes of the answer.

release      differences between releases, as data
body         JSON within bounds, values of known types
parameters   a request's parameters -> sampling
lmi          answers of /invocations        openai    chat and text completions
asked        rows and the form of their answer: the result of all of them
"""
