"""Random masks."""

import numpy as np
from hypothesis import strategies as st

masks = st.tuples(
    st.integers(1, 12), st.integers(1, 20), st.floats(0, 1), st.integers(0, 10**6)
).map(lambda t: np.random.default_rng(t[3]).random((t[0], t[1])) < t[2])
