"""Error of positions from the points at which the pixels of a model sample the scene.

Around a core the acceptance changes within a fraction of a pixel. Images of the same scene, sampled at other points of
the pixels, differ near the core. This changes the positions fitted to them.
"""

from __future__ import annotations

from itertools import product

import numpy as np

from dfxm_dask.dynamics.cores.likelihood import NUISANCES, Window, rendered
from dfxm_dask.dynamics.cores.posterior import Posterior

PHASES = (-1, 0, 1)  # thirds of a pixel at which the scene is sampled, along each side
EVEN = 2 / 27  # mean square of these points, pixel²
BORDER = 2  # pixels of the fine image beyond the window


def _fine(window: Window, lines: np.ndarray, parameters: np.ndarray) -> np.ndarray:
    """Image of a scene at steps of a third of a pixel, with a border."""
    pitch = window.y[1] - window.y[0], window.x[1] - window.x[0]
    larger = tuple(n + 2 * BORDER for n in window.counts.shape)
    out = np.empty([3 * n for n in larger])
    for phase in product(range(3), repeat=2):
        y, x = (
            p[0] + d * (f / 3 + np.arange(-BORDER, p.size + BORDER))
            for p, d, f in zip((window.y, window.x), pitch, phase, strict=True)
        )
        same = parameters.copy()  # slopes of the angle refer to the middle of the window
        same[-NUISANCES] += sum(parameters[1 - NUISANCES + k] * pitch[k] * phase[k] / 3 for k in (0, 1))
        one = window._replace(y=y, x=x, counts=np.empty(larger), valid=np.ones(larger, bool))
        out[phase[0] :: 3, phase[1] :: 3] = rendered(one, lines, same, False)[0]
    return out


def _changes(fine: np.ndarray) -> np.ndarray:
    """Along rows: images sampled at the centres of the pixels, and at other points and interpolated.

    One pair of images (still, moved) for each position of the scene in the pixel and each point.
    """
    count, first = fine.shape[0] // 3 - 2 * BORDER, 3 * BORDER
    out = []
    for scene, point in product(PHASES, repeat=2):
        at = [first + scene + shift for shift in (0, point, point - 3 * int(np.sign(point)))]
        centre, near, far = (fine[k : k + 3 * count : 3] for k in at)
        out.append((centre, (1 - abs(point) / 3) * near + abs(point) / 3 * far))
    return np.array(out)


def sampling_covariance(window: Window, lines: np.ndarray, found: Posterior, spread: float) -> np.ndarray:
    """Covariance (2 core, 2 core) of the positions from unknown sampling points, to first order, um2.

    The positions respond linearly to the difference between the images, whose mean square over the positions of the
    scene in the pixel counts. ``spread`` is the rms distance of the points from the centres along each side, pixel.
    """
    size = 2 * len(lines)
    parameters = np.concatenate([found.position.ravel(), found.nuisances])
    image, slopes = rendered(window, lines, parameters, True)
    scale, background = parameters[-2:]
    signal = scale * image
    light = np.maximum(window.gain * (signal + background - window.offset), 0)
    variance = light + window.read_noise**2 + (window.model_error * signal) ** 2 + 1e-12
    root = (window.valid / np.sqrt(variance)).ravel()
    free = np.concatenate([np.ones(size, bool), window.spread > 0])
    prior = np.zeros(free.size)
    prior[size:][window.spread > 0] = 1 / window.spread[window.spread > 0] ** 2
    jacobian = np.concatenate([scale * slopes, image[None], np.ones((1, *image.shape))]).reshape(free.size, -1)
    jacobian = (jacobian * root)[free]
    rows = _changes(_fine(window, lines, parameters))
    pairs = [[_changes(one.T) for one in pair] for pair in rows]
    change = np.array([moved[:, 1] - still[:, 0] for still, moved in pairs])
    change = scale * np.swapaxes(change, -1, -2).reshape(change.shape[0] * change.shape[1], -1) * root
    moved = np.linalg.solve(jacobian @ jacobian.T + np.diag(prior[free]), jacobian @ change.T)[:size]
    return np.asarray(moved @ moved.T * (spread**2 / EVEN / len(change)))
