"""Missing layers of a stack."""

from __future__ import annotations

import numpy as np

from dfxm_dask.errors import InputError

GAP = 1.5
"""Layers farther apart than this multiple of the median distance are not neighbours: one is missing (our choice)."""


def neighbouring(z: np.ndarray) -> np.ndarray:
    """Whether each layer directly follows the previous one, without a gap: (z,), bool, False for the first.

    Raises
    ------
    InputError
        Positions that are neither ascending nor descending throughout.

    Examples
    --------
    >>> neighbouring(np.array([0.0, 1, 2, 4, 5])).tolist()
    [False, True, True, False, True]
    """
    steps = np.diff(z)
    if not ((steps > 0).all() or (steps < 0).all()):
        raise InputError("layers of a volume", f"lie at z = {z.tolist()} um", "give ascending or descending positions")
    near = np.abs(steps) <= GAP * np.median(np.abs(steps)) if steps.size else steps > 0
    return np.concatenate([np.zeros(min(1, len(z)), bool), near])
