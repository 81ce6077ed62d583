from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from compiler.calibration.samples import Samples
from compiler.calibration.streams import BATCH, batches


@given(st.lists(st.sampled_from([8, 100, 512, BATCH, 3 * BATCH]), min_size=1, max_size=40))
def test_batches_are_the_samples_in_their_order(lengths: list[int]) -> None:
    """Each of one length, and with more than one sample of at most BATCH tokens."""
    found = list(batches(Samples(tuple(np.zeros(length, np.int64) for length in lengths), "", "sha256:0")))
    assert [length for count, length in found for _ in range(count)] == lengths
    assert all(count == 1 or count * length <= BATCH for count, length in found)
    # As few as that allows: two neighbors would not fit together.
    assert all(a[1] != b[1] or (a[0] + 1) * a[1] > BATCH for a, b in pairwise(found))
