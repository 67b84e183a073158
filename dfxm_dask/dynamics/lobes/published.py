"""The published recipe for moving dislocations: wavelet band, threshold, and a front that fills the dark lobe."""

from __future__ import annotations

import numpy as np
from scipy import ndimage
from skimage.graph import MCP_Geometric
from skimage.measure import label, regionprops
from skimage.morphology import closing, disk, remove_small_objects

from dfxm_dask.dynamics.wavelets import zero_phase_band

LEVEL = 3
NEIGHBOURHOOD = 25  # pixels, side of the square that is searched for the darkest pixel
CLOSING = 2  # pixels, radius (our choice: not published)
SMOOTHING = 1.0  # pixels, Gaussian of the union (our choice: not published)
DARK_SIZE = 0.6  # share of the arrival times within the neighbourhood that the dark lobe may take (our choice)
MAD = 1.4826


def dark_lobe(band: np.ndarray, row: int, column: int) -> np.ndarray:
    """Dark lobe about a seed by a marching front: (y, x), bool, of the same shape as the band.

    The front is fast where the band is as low as at the seed and slow where it reaches the level around. Its arrival
    times are those of shortest paths over the eight neighbours, up to 8 % above those of the eikonal equation;
    scikit-fmm, which solves that equation, would require a compiler at installation.
    """
    depth = np.clip(-band / max(-float(band[row, column]), 1e-12), 0.0, 1.0)
    times, _ = MCP_Geometric(1 / (0.02 + depth)).find_costs([(row, column)])
    return np.asarray((times <= DARK_SIZE * NEIGHBOURHOOD / 2) & (depth > 0.5))


def published_objects(
    counts: np.ndarray, wavelet: str = "db4", cut: float = 3.5, small: int = 12, legacy: bool = False
) -> np.ndarray:
    """Dislocations of one frame by the published recipe.

    Parameters
    ----------
    counts : ndarray (y, x)
        Missing pixels (NaN) get the median.
    wavelet : str
    cut : float
        Threshold in standard deviations of the band.
    small : int
        Objects of fewer pixels are removed.
    legacy : bool
        Raw coefficients and standard deviation, as published; otherwise zero phase and median absolute deviation.

    Returns
    -------
    ndarray (object, 6), float64
        Row and column of the centroid of bright and dark lobe together, largest count above the median, row and column
        of the dark seed, pixels of the object.
    """
    image = np.asarray(counts, np.float64)
    usable = np.isfinite(image)
    if not usable.any() or np.ptp(image[usable]) == 0:
        return np.empty((0, 6))
    image = np.where(usable, image, np.median(image[usable]))
    band = zero_phase_band(image, wavelet, LEVEL, "horizontal", legacy=legacy)
    band -= np.median(band)
    sigma = band.std() if legacy else MAD * np.median(np.abs(band))
    bright = remove_small_objects(band > cut * sigma, max_size=small - 1)
    bright = closing(bright, disk(CLOSING))
    out = []
    half = NEIGHBOURHOOD // 2
    level = np.median(image)
    for region in regionprops(label(bright, connectivity=2)):
        row, column = (round(float(v)) for v in region.centroid)
        top, left = max(row - half, 0), max(column - half, 0)
        part = band[top : row + half + 1, left : column + half + 1]
        seed = np.unravel_index(int(part.argmin()), part.shape)
        if not part[seed] < 0:
            continue
        both = dark_lobe(part, int(seed[0]), int(seed[1]))
        own = region.coords - [top, left]
        inside = ((own >= 0) & (own < part.shape)).all(axis=1)
        both[tuple(own[inside].T)] = True
        smooth = ndimage.gaussian_filter(both.astype(float), SMOOTHING)
        centre = ndimage.center_of_mass(smooth)
        peak = image[tuple(region.coords.T)].max() - level
        out.append((centre[0] + top, centre[1] + left, peak, seed[0] + top, seed[1] + left, float(both.sum())))
    return np.array(out, np.float64).reshape(-1, 6)
