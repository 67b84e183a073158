"""A plugin of the tests of clusters: a reduction that takes its time, so that a run can be disturbed on its way."""

from __future__ import annotations

import time

import numpy as np

from dfxm_dask.reduction import reduction
from dfxm_dask.schema import COUNTS, Variable


@reduction(reads=(COUNTS,), writes=(Variable("slow_sum", ("z", "y", "x"), "float32", "count", "sum of frames"),))
def slow_sum(counts: np.ndarray, *, seconds: float = 0.0) -> dict[str, np.ndarray]:
    "Sum of frames, after a while."
    time.sleep(seconds)
    return {"slow_sum": counts.sum(-1).astype("float32")}
