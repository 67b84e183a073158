"""Dislocation density: the Nye tensor, from the curl of the distortion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from dfxm_dask.errors import InputError
from dfxm_dask.reduction import reduction
from dfxm_dask.schema import SPACE, Variable, X, Y, Z, pixel_length
from dfxm_dask.strain.lines.curl import NO_DEFORMATION, NO_NEIGHBOUR, ONE_LAYER, nye_tensor
from dfxm_dask.strain.normal_equations import read_only
from dfxm_dask.strain.variables import (
    DEFORMATION,
    DEFORMATION_COVARIANCE,
    DENSITY,
    DENSITY_FLOOR,
    NYE,
    NYE_ERROR,
    RECIPROCAL_LATTICE,
)

BORDER = 16
"""Rows of the neighbouring bands; the Gaussian weights end at three standard deviations within them."""
SMOOTHED = 1.5
"""Default scale in edges of the larger pixel: the least with which a wall of any direction is within 0.5 %."""
SHORTEST = {"fcc": 0.5 * np.array([1.0, 1, 0]), "bcc": 0.5 * np.array([1.0, 1, 1])}
"""Shortest Burgers vector in units of the cell."""
CUBIC = 0.01
"""Largest relative deviation of a cubic cell (our choice)."""


def burgers_length(reciprocal_lattice: np.ndarray, structure: str, burgers: float | None) -> float:
    """Length of the Burgers vector, um: the given one, or the shortest of a cubic lattice.

    Raises
    ------
    InputError
        The lattice is not cubic and no length is given.

    Examples
    --------
    >>> round(burgers_length(2 * np.pi / 4.05 * np.eye(3), "fcc", None), 8)
    0.00028638
    """
    if burgers is not None:
        return burgers
    metric = np.asarray(reciprocal_lattice).T @ reciprocal_lattice
    size = np.trace(metric) / 3
    if not np.abs(metric - size * np.eye(3)).max() <= CUBIC * size:
        raise InputError(
            "dislocation_density: parameter 'burgers'",
            "is not given, and the lattice is not cubic",
            "give the length of the Burgers vector in um, such as burgers=0.000286",
        )
    return float(1e-4 * 2 * np.pi / np.sqrt(size) * np.linalg.norm(SHORTEST[structure]))


def reach(parameters: Mapping[str, Any], positions: Mapping[str, np.ndarray]) -> tuple[int, int, float]:
    """Pixels along y and x over which the derivative is smoothed, and the scale in um.

    Raises
    ------
    InputError
        Pixels of unequal size, or a scale that needs more rows than the border has.
    """
    scale = parameters["scale"]
    if scale == 0:
        return 0, 0, 0.0
    steps = [pixel_length(d, "dislocation_density", np.asarray(positions[d])) for d in ("y", "x")]
    usual = SMOOTHED * max([step for step in steps if np.isfinite(step)], default=0.0)
    word = "scale" if scale is not None else "default scale"
    scale = usual if scale is None else scale
    pixels = [int(np.ceil(3 * scale / step - 1e-6)) if np.isfinite(step) else 0 for step in steps]
    if pixels[0] > BORDER:
        raise InputError(
            f"dislocation_density: {word} {scale:g} um",
            f"needs {pixels[0]} rows of {steps[0]:.6g} um on each side, at most {BORDER} are available",
            f"set a scale of at most {BORDER * steps[0] / 3:.6g} um",
        )
    return pixels[0], pixels[1], float(scale)


@reduction(
    reads=(DEFORMATION, DEFORMATION_COVARIANCE, RECIPROCAL_LATTICE, Z, Y, X),
    writes=(
        NYE,
        NYE_ERROR,
        DENSITY,
        DENSITY_FLOOR,
        Variable(
            "nye_reason",
            SPACE,
            "uint8",
            "1",
            "reason of missing components of the Nye tensor",
            flags=(
                (NO_DEFORMATION, "deformation_missing"),
                (NO_NEIGHBOUR, "neighbouring_pixel_missing"),
                (ONE_LAYER, "neighbouring_layer_missing"),
            ),
        ),
    ),
    over=("x",),
    halo=1,
    border=BORDER,
    min_axes=0,
    fits=reach,
)
def dislocation_density(
    deformation: np.ndarray,
    deformation_covariance: np.ndarray,
    reciprocal_lattice: np.ndarray,
    z: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    *,
    middle: int = 0,
    inner: slice = slice(None),
    scale: Annotated[
        float | None,
        Field(
            ge=0,
            description="standard deviation of the Gaussian weights of a derivative; by default 1.5 edges of the "
            "larger pixel; 0 uses adjacent pixels",
            json_schema_extra={"unit": "um"},
        ),
    ] = None,
    structure: Annotated[
        Literal["fcc", "bcc"], Field(description="cubic lattice, for the length of its shortest Burgers vector")
    ] = "fcc",
    burgers: Annotated[
        float | None,
        Field(
            gt=1e-5,
            lt=0.01,
            description="length of the Burgers vector; by default from the lattice",
            json_schema_extra={"unit": "um"},
        ),
    ] = None,
) -> dict[str, np.ndarray]:
    """Nye tensor and lower bound of the dislocation density, with the density that noise alone causes.

    A component needs derivatives along two axes. A single layer has no derivative along z and determines only the
    components of the third column: dislocation lines that pierce the layer. Components without all derivatives are NaN.

    Parameters
    ----------
    scale : float, um, optional
        Noise decreases with the square of the scale; dislocations of opposite sign within the scale cancel. The
        derivative along z is smoothed within the layers only. With adjacent pixels, the density of a sharp wall across
        the pixels is up to 8 % too large, 25 % with pixels of 1 : 3: the norm counts the steps of the wall from pixel
        to pixel. With a scale of s edges of the larger pixel it is too large by at most 1 / s² per cent.

    Returns
    -------
    dict
        ``density`` and ``density_floor`` of the components that are determined. A density is significant where it
        exceeds the floor severalfold: noise alone scatters about the floor.

    Raises
    ------
    InputError
        Pixels of unequal size, a scale that is too large, or a lattice that is not cubic without ``burgers``.

    Notes
    -----
    With the distortion beta = F - I, the alternating tensor eps and the sum over k, l::

        nye_ij = Σ eps_jkl d(beta_il)/dx_k,    density = sqrt(Σ nye_ij²) / b

    The integral of nye_ij over an area with normal j is component i of the sum of the Burgers vectors of all lines that
    pierce the area: the closed integral of beta along its edge, counter-clockwise about j. Derivatives are the slopes
    of parabolas through adjacent pixels and layers (of a straight line at edges), or of planes fitted with Gaussian
    weights. Errors assume that the errors of pixels are independent. The floor is the mean of sqrt(Σ nye_ij²) / b for
    Gaussian errors, with S the covariance of the components (Satterthwaite's approximation)::

        floor = sqrt(2 tr(S) / n) Γ((n + 1)/2) / Γ(n/2) / b,    n = tr(S)² / tr(S²)

    The density is a lower bound because lines of opposite sign within a pixel cancel, and because of the norm.

    References
    ----------
    J. F. Nye, Acta Metall. 1 (1953) 153; W. Pantleon, Scr. Mater. 58 (2008) 994.

    Examples
    --------
    >>> import dfxm_dask
    >>> reflections = dfxm_dask.example_reflections()
    >>> found = dfxm_dask.deformation(reflections).assign(reciprocal_lattice=reflections["reciprocal_lattice"])
    >>> maps = dfxm_dask.dislocation_density(found)
    >>> bool(maps["density"].isel(z=1)[7:9, 7:9].mean() > 10 * maps["density_floor"].mean())
    True

    The kernel alone, on one layer: a lattice that bends by 1 mrad/um about z along x.

    >>> bent, side = np.tile(np.eye(3), (1, 5, 5, 1, 1)), np.arange(5.0)
    >>> bent[..., 1, 0], bent[..., 0, 1] = 1e-3 * side, -1e-3 * side
    >>> covariance = np.zeros((1, 5, 5, 9, 9), np.float32)
    >>> alone = dislocation_density.kernel(bent, covariance, np.eye(3), np.zeros(1), side, side, burgers=2.86e-4)
    >>> alone["nye"][2, 2].round(9).tolist()
    [[nan, nan, -0.001], [nan, nan, 0.0], [nan, nan, 0.0]]
    """
    high, wide, smoothed = reach({"scale": scale}, {"y": y, "x": x})
    rows = range(*inner.indices(y.size))
    shape = (len(rows), x.size)
    tensor, error = np.full((*shape, 9), np.nan), np.full((*shape, 9), np.nan, np.float32)
    density, floor = (np.full(shape, np.nan, np.float32) for _ in range(2))
    reason = np.zeros(shape, np.uint8)
    whole = deformation.shape[:3]
    nye_tensor(
        read_only(deformation, np.float64).reshape(*whole, 9),
        read_only(deformation_covariance, np.float32),
        tuple(read_only(positions, np.float64) for positions in (z, y, x)),
        (middle, rows.start, high, wide, smoothed),
        burgers_length(reciprocal_lattice, structure, burgers),
        (tensor, error, density, floor, reason),
    )
    return {
        NYE.name: tensor.reshape(*shape, 3, 3),
        NYE_ERROR.name: error.reshape(*shape, 3, 3),
        DENSITY.name: density,
        DENSITY_FLOOR.name: floor,
        "nye_reason": reason,
    }
