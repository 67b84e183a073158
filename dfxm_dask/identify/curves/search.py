"""Search for the position of every candidate, by correlation with the peak angles of one layer."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy import fft

from dfxm_dask.identify.curves.model import Lines, averaged


class Found(NamedTuple):
    """Best position of every candidate on a grid.

    Attributes
    ----------
    gain, contrast : array (candidate,)
        Decrease of chi2 against a lattice without a dislocation, and chi2 of the expected maps without noise.
    place : array (candidate, yx), um
        Where the line crosses the layer, relative to the first pixel.
    """

    gain: np.ndarray
    contrast: np.ndarray
    place: np.ndarray


def search(lines: Lines, peak: np.ndarray, weight: np.ndarray, pitch: tuple[float, float]) -> Found:
    """Candidates at all pixels of one layer, by correlation.

    Parameters
    ----------
    lines : Lines
    peak, weight : array (axis, y, x), rad, 1/rad2
        Angles of the lattice and their weights; weight 0 marks invalid pixels.
    pitch : (float, float), um
        Of the pixels along y and x.
    """
    axes, rows, columns = peak.shape
    shape = (2 * rows, 2 * columns)
    y, x = ((np.arange(n) - n * (np.arange(n) >= n // 2)) * p for n, p in zip(shape, pitch, strict=True))
    place = np.stack([np.tile(x, shape[0]), np.repeat(y, shape[1]), np.zeros(shape[0] * shape[1])], axis=1)
    planes = _orthonormal(weight)
    valid = np.where(weight > 0, peak, 0.0)
    rest = valid - np.einsum("apyx,ap->ayx", planes, np.einsum("apyx,ayx->ap", planes, weight * valid))
    spectra = np.conj(fft.rfft2(weight, shape)), np.conj(fft.rfft2(weight * rest, shape))
    of_planes = np.conj(fft.rfft2(weight[:, None] * planes, shape))
    upper = np.triu_indices(4)
    n = len(lines.frame)
    gain, contrast, best = np.full(n, -np.inf), np.zeros(n), np.zeros((n, 2))
    for own in _groups(lines):
        first = own[0]
        u, v = (place @ lines.frame[first, :2].T).T
        made = averaged(lines, first, u, v).reshape(4, *shape)
        shifted = fft.rfft2(made)
        products = fft.rfft2(made[upper[0]] * made[upper[1]])

        total = np.zeros((2, len(own), rows * columns))
        for a in range(axes):
            r = _correlation(shape, spectra[1][a] * shifted).reshape(4, -1)
            square = np.empty((4, 4, rows * columns))
            square[upper] = _correlation(shape, spectra[0][a] * products).reshape(10, -1)
            square[upper[1], upper[0]] = square[upper]
            with_planes = _correlation(shape, of_planes[a][:, None] * shifted).reshape(3, 4, -1)
            square -= (with_planes[:, :, None] * with_planes[:, None]).sum(0)
            f = _in_frame(lines, own, first)[:, a]
            expected = (f[:, :, None] * f[:, None]).reshape(len(own), 16) @ square.reshape(16, -1)
            total += np.stack([2 * f @ r - expected, expected])
        where = np.argmax(total[0], axis=1)
        picked = np.arange(len(own)), where
        gain[own], contrast[own] = total[0][picked], total[1][picked]
        best[own] = np.stack([where // columns * pitch[0], where % columns * pitch[1]], axis=1)
    return Found(gain, contrast, best)


def _correlation(shape: tuple[int, int], spectrum: np.ndarray) -> np.ndarray:
    """Sum over pixels of weight(pixel) f(pixel - position), at all positions in the frame."""
    turned = np.roll(fft.irfft2(spectrum, shape)[..., ::-1, ::-1], (1, 1), (-2, -1))
    return turned[..., : shape[0] // 2, : shape[1] // 2]


def _orthonormal(weight: np.ndarray) -> np.ndarray:
    """Constant and slopes (axis, 3, y, x), orthonormal under the weights."""
    axes, rows, columns = weight.shape
    y, x = np.meshgrid(np.linspace(-1, 1, rows), np.linspace(-1, 1, columns), indexing="ij")
    flat = np.stack([np.ones(y.size), y.ravel(), x.ravel()], axis=1)
    out = np.zeros((axes, 3, rows, columns))
    for a in range(axes):
        root = np.sqrt(weight[a].ravel())
        if np.count_nonzero(root) > 3:
            triangle = np.asarray(np.linalg.qr(root[:, None] * flat, mode="r"))
            if np.abs(np.diag(triangle)).min() > 0:
                out[a] = np.linalg.solve(triangle.T, flat.T).reshape(3, rows, columns)
    return out


def _groups(lines: Lines) -> list[np.ndarray]:
    """Rows of candidates with parallel lines."""
    t = lines.frame[:, 2].round(6) + 0.0
    sign = np.sign(t[np.arange(len(t)), np.argmax(np.abs(t) > 1e-6, axis=1)])
    _, number = np.unique(t * sign[:, None] + 0.0, axis=0, return_inverse=True)
    number = number.ravel()
    return [np.flatnonzero(number == k) for k in range(number.max() + 1)]


def _in_frame(lines: Lines, rows: np.ndarray, first: int) -> np.ndarray:
    """Factors (candidate, axis, 4) of parallel lines in the frame of one of them."""
    e1, n = lines.frame[first, :2]
    turn = np.arctan2(lines.frame[rows, 0] @ n, lines.frame[rows, 0] @ e1)
    hand = np.sign(lines.frame[rows, 2] @ lines.frame[first, 2])
    out = np.empty_like(lines.factors[rows])
    for k, m in ((0, 1), (2, 3)):
        c, s = np.cos(m * turn)[:, None], np.sin(m * turn)[:, None]
        even, odd = lines.factors[rows, :, k], hand[:, None] * lines.factors[rows, :, k + 1]
        out[:, :, k], out[:, :, k + 1] = c * even - s * odd, s * even + c * odd
    return out
