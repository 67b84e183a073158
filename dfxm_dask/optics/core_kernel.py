"""Constants of the localisation study of Brennan (2022), and its quadrature over the light sheet."""

from __future__ import annotations

from functools import cache

import numpy as np

from dfxm_dask.errors import InputError

PIXELS = 50
PIXEL = 0.075  # um, along y and, unlike on a real detector, also along x
BURGERS = 2.86e-4  # um
POISSON = 0.334


@cache
def sheet_nodes(n: int, rms: float) -> tuple[np.ndarray, np.ndarray]:
    """Gauss rule for the light sheet: nodes (n,) in [-rms/2, rms/2] and weights (n,) for exp(-z²/(2 rms²)).

    Parameters
    ----------
    n : int
        Number of nodes; exact for polynomials below degree 2 n.
    rms : float
        Height of the sheet; nodes and weights have its unit.

    Raises
    ------
    InputError
        No node, or a sheet without height.

    Notes
    -----
    Golub & Welsch (1969): eigenvalues of the Jacobi matrix, which Lanczos' method takes from the measure on 128
    Gauss-Legendre points.

    Examples
    --------
    >>> nodes, weights = sheet_nodes(10, 600 / 2.355)
    >>> nodes[-1].round(3).item(), weights.sum().round(3).item()
    (124.026, 244.548)
    """
    if not 0 < n <= 64 or not rms > 0:
        raise InputError(
            f"rule of {n} nodes for a sheet of {rms} rms", "is not possible", "take 1 to 64 nodes and rms > 0"
        )
    fine, measure = np.polynomial.legendre.leggauss(128)
    fine = 0.5 * fine
    measure = 0.5 * measure * np.exp(-0.5 * fine**2)
    basis = np.zeros((n, len(fine)))
    jacobi = np.zeros((n, n))
    vector = np.sqrt(measure)
    for k in range(n):
        basis[k] = vector / np.linalg.norm(vector)
        vector = fine * basis[k]
        jacobi[k, : k + 1] = basis[: k + 1] @ vector
        vector = vector - basis[: k + 1].T @ (basis[: k + 1] @ vector)
    nodes, vectors = np.linalg.eigh(np.tril(jacobi, -1) + np.tril(jacobi, -1).T + np.diag(np.diag(jacobi)))
    # The measure is even; the rule then also is, to the last bit.
    weights = measure.sum() * vectors[0] ** 2
    nodes, weights = rms * (nodes - nodes[::-1]) / 2, rms * (weights + weights[::-1]) / 2
    nodes.setflags(write=False)
    weights.setflags(write=False)
    return nodes, weights
