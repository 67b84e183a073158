"""Pseudo-random numbers that depend on their input alone, so that they do not depend on blocks or on their order."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(nogil=True, cache=True)
def mixed(value):  # type: ignore[no-untyped-def]
    """Finalizer of splitmix64, uint64 to uint64: the results of neighbouring numbers are uncorrelated."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
