"""Inputs as real users have them: one executable case for each row of a table of inputs made after public bug reports,
published configuration files and documented usage.

    case.py         the decorator `@case(row, title)` and the registry
    rows.py         the rows of the table, by number
    checkpoints.py  the tiny Llama-like checkpoint that most rows deviate from, and the comparison with transformers
    runs.py         commands of the real command line on such a checkpoint
    others          the cases, one module a kind

`python -m tests.cases [NUMBER...]` prints a verdict for each row; `test_cases.py` runs each case as a test.
"""
