"""A program that loads a checkpoint on TP ranks and prints their process ids. Then it waits or works until it is ended,
or it ends without closing the model.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path

from compiler.runtime.generate import Model
from compiler.runtime.params import GenerationParams
from tests.runtime.eager import LIMITS, engine
from tests.tiny import VOCAB


def main(checkpoint: str, tp: str, when: str) -> None:
    made = engine(Path(checkpoint), int(tp))
    assert made._ranks is not None
    model = Model(made, LIMITS, VOCAB, None, frozenset())
    model.generate([[1, 2, 3]], GenerationParams(max_new_tokens=1))
    print(*(follower.process.pid for follower in made._ranks._followers), flush=True)
    while when != "forgotten":
        if when == "waiting":
            time.sleep(60)
        else:
            model.generate([[1, 2, 3]], GenerationParams(max_new_tokens=100, ignore_eos=True))


if __name__ == "__main__":
    main(*sys.argv[1:])
