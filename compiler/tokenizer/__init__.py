"""Tokenizers of checkpoints and artifacts: loading, and what a container's transformers makes of the same files.

vocabulary  the file that holds the vocabulary      settings  tokenizer_config.json and the files beside it
load        folder -> Tokenizer                     tokenizer the two kinds of Tokenizer
ranks       tekken.json, qwen.tiktoken              edges     BOS and EOS of each release of transformers
notes       findings at plan time                   container files in the form of a container's transformers
"""
