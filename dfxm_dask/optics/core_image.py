"""Image of one edge dislocation core that lies below the pixel size: the localisation study of Brennan (2022).

50 × 50 pixels of 75 nm of Al 002 in weak beam, one straight edge dislocation, two unknowns: where its core pierces the
plane across its line. ``legacy=True`` is the model of the published code (DFXMTools, bf0bdef), with which the released
images agree. It departs from the theory that it cites in three points, and the default model does not:

- the sign of the Poisson ratio in du_y/dy of the field;
- sample to image by R_y(3 theta) instead of R_y(theta);
- phi in the resolution function as well as in the deviation of the scattering vector.

A fourth departure is in its likelihood, whose mean excludes the background. Here the mean always includes it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.optics.core_kernel import BURGERS, PIXEL, PIXELS, POISSON, sheet_nodes
from dfxm_dask.optics.defects.dislocation import line_table, lines
from dfxm_dask.optics.geometry import lab_to_sample, rotation_x, rotation_y
from dfxm_dask.optics.instrument.microscope import find_microscope
from dfxm_dask.optics.line_images import Optics, acceptance_tables, core_images
from dfxm_dask.optics.resolution import rocking_coefficients

DEPTHS = 10
COUNTS = 1.8  # per nm of light sheet
LEGACY_PHI, CHI = 2.5e-3, float(np.radians(0.015))  # rad
# Counted once, the published phi would be far outside of the acceptance. This one gives the far field the same
# deviation, -3.185e-4, as the published model: weak beam, just outside (our choice).
_THETA = find_microscope("brennan_al002").theta
PHI = LEGACY_PHI * float(np.cos(3 * _THETA) - np.cos(_THETA)) / float(np.cos(_THETA))
# The published resolution is a kernel estimate from 1e5 random rays: its bandwidth, and by how much its maximum
# exceeds the plateau. Both are our estimates for that code.
LEGACY_BLUR, LEGACY_PEAK = 1.34e-5, 1.03

CHARACTERS = np.array(
    [
        [[1, 1, 0], [-1, 1, 1], [1, -1, 2]],
        [[1, 1, 0], [1, -1, 1], [1, -1, -2]],
        [[1, -1, 0], [-1, -1, -1], [1, 1, -2]],
        [[1, -1, 0], [1, 1, -1], [1, 1, 2]],
        [[1, 0, -1], [1, 1, 1], [1, -2, 1]],
        [[1, 0, -1], [1, -1, 1], [-1, -2, -1]],
        [[1, 0, 1], [1, 1, -1], [-1, 2, 1]],
        [[1, 0, 1], [-1, 1, 1], [-1, -2, 1]],
        [[0, 1, 1], [1, 1, -1], [-2, 1, -1]],
        [[0, 1, 1], [-1, 1, -1], [-2, -1, 1]],
        [[0, 1, -1], [1, 1, 1], [2, -1, -1]],
        [[0, 1, -1], [-1, 1, 1], [2, 1, 1]],
    ]
)
"""Edge characters 1 to 12 (character, row, 3): rows b, n, t in the grain frame, to be normalised; b = n × t."""

PRIOR_WIDTHS = np.array(
    [
        [800, 800],
        [500, 1000],
        [500, 1000],
        [800, 800],
        [1500, 1500],
        [1500, 1500],
        [1000, 1500],
        [1000, 1500],
        [500, 1200],
        [1000, 1000],
        [1000, 1000],
        [500, 1200],
    ],
    np.float64,
)
"""Widths in nm of the uniform prior of every character, centred on 0: along y and along the projected x."""


class Model(NamedTuple):
    """The published departures of a model; ``Model()`` is the corrected model.

    The last one, not an error, is the published resolution: a kernel estimate from random rays, slightly blurred.
    """

    wrong_sign: bool = False
    wrong_geometry: bool = False
    phi_twice: bool = False
    kernel_estimate: bool = False


CORRECTED, LEGACY = Model(), Model(True, True, True, True)


def _rows(character: int | np.ndarray) -> np.ndarray:
    """Rows b, n, t of a character, with length one."""
    if np.ndim(character) == 0:
        if character not in range(1, len(CHARACTERS) + 1):
            remedy = f"take 1 to {len(CHARACTERS)}, or b, n, t"
            raise InputError(f"character {character}", "is not in the table", remedy)
        character = CHARACTERS[int(character) - 1]
    rows = np.asarray(character, np.float64)
    if rows.shape == (3, 3) and np.isfinite(rows).all() and np.linalg.norm(rows, axis=1).all():
        rows = rows / np.linalg.norm(rows, axis=1)[:, None]
        if np.allclose(rows @ rows.T, np.eye(3), atol=1e-9) and np.linalg.det(rows) > 0:
            return rows
    raise InputError(
        f"character {np.asarray(character).tolist()}",
        "is not an edge dislocation: b, n, t have to be perpendicular and b = n × t",
        "give three rows b, n, t",
    )


def _sample_to_lab(model: Model) -> tuple[np.ndarray, float]:
    """Rotation from sample to lab, and phi."""
    if model.wrong_geometry:
        tilt = rotation_x(CHI) @ rotation_y(-LEGACY_PHI)
        return lab_to_sample(_THETA) @ tilt, LEGACY_PHI
    return lab_to_sample(_THETA).T, PHI


def core_signal(
    position: np.ndarray,
    character: int | np.ndarray,
    *,
    legacy: bool = False,
    gradient: bool = False,
    model: Model | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Counts F of the dislocation image without background, and their derivatives with respect to the position.

    Parameters
    ----------
    position : array (2,), nm
        Core in the plane across its line, along b and along n.
    character : int or array (3, 3)
        1 to 12, or rows b, n, t in the grain frame, whose z is the scattering vector.
    legacy : bool
        Use the published model with its three errors instead of the corrected one.
    gradient : bool
        Compute the derivatives.
    model : Model, optional
        The errors one by one; overrides ``legacy``.

    Returns
    -------
    counts : array (50, 50), float64
        [x pixel, y pixel].
    gradient : array (50, 50, 2), float64, 1/nm
        dF/dposition; empty (0, 0, 2) without ``gradient``.

    Raises
    ------
    InputError
        A position that is not two finite numbers, or a character that is not an edge.

    Notes
    -----
    With a Gauss rule of 10 nodes for the weight of the light sheet::

        F = 1.8/nm · ∫ p(q_rock'(z)) exp(-z²/(2 sheet²)) dz,    |z| < sheet/2

    The rays are sheared along the diffracted beam, x_l = x + z/tan(2 theta). The defect is a straight edge dislocation
    in an isotropic body without core radius, with H = F^-T - I exactly.

    Examples
    --------
    >>> counts, _ = core_signal((0.0, 0.0), 1)
    >>> counts.shape
    (50, 50)
    """
    position = np.asarray(position, np.float64)
    if position.shape != (2,) or not np.isfinite(position).all():
        raise InputError(f"position {position.tolist()}", "is not two finite numbers", "give (along b, along n) in nm")
    model = model or (LEGACY if legacy else Model())
    optics, line, turn = core_optics(character, model)
    place = PIXEL * (np.arange(PIXELS) - (PIXELS - 1) / 2)
    counts = np.empty((PIXELS, PIXELS))
    slopes = np.empty((3, PIXELS, PIXELS) if gradient else (0, 0, 0))
    # From the plane across the line to the plane z = 0, (y, x), which the line crosses.
    across = np.linalg.inv((_rows(character) @ turn.T)[:2, 1::-1])
    core_images(place, place, (across @ (1e-3 * position))[None], line, optics, counts, slopes)
    if not gradient:
        return 1e3 * COUNTS * counts.T, np.empty((0, 0, 2))
    # Weights are in um, counts per nm; gradients per nm of the position, which the kernel has in um.
    return 1e3 * COUNTS * counts.T, COUNTS * np.einsum("iyx,ij->xyj", slopes[:2], across)


def core_optics(character: int | np.ndarray, model: Model = CORRECTED) -> tuple[Optics, np.ndarray, np.ndarray]:
    """Parts of the study for :func:`dfxm_dask.optics.line_images.core_images`.

    Returns
    -------
    optics : Optics
    line : array (1, 15)
        The line of the character.
    turn : array (3, 3)
        Rotation from the sample to the laboratory.
    """
    rows = _rows(character)
    turn, phi = _sample_to_lab(model)
    microscope = find_microscope("brennan_al002")
    image = rotation_y(2 * _THETA) @ turn if model.wrong_geometry else rotation_y(_THETA)
    shift = image @ [phi, CHI, 0]
    shift[0] -= np.cos(_THETA) * phi if model.phi_twice else 0.0
    rocking = rocking_coefficients(microscope, LEGACY_BLUR if model.kernel_estimate else 0.0)
    if model.kernel_estimate:
        rocking[10] /= LEGACY_PEAK
    nodes, weights = sheet_nodes(DEPTHS, microscope.sheet)
    optics = Optics(
        direction=turn @ [0.0, 0, 1],
        matrix=image @ turn.T,
        shift=shift,
        move=image @ [1.0, 0, 0],
        points=np.outer(nodes, [1 / np.tan(2 * _THETA), 0, 1]),
        weights=weights,
        **acceptance_tables(rocking),
        poisson=POISSON,
        tilt=np.zeros(4),
    )
    e1, _, t = rows @ turn.T
    line = line_table(lines(np.zeros(3), BURGERS * e1, t), POISSON, legacy=model.wrong_sign)
    return optics, line, turn


def core_image(
    position: np.ndarray,
    character: int | np.ndarray,
    *,
    background: float = 0.05,
    readout: float = 0.01,
    legacy: bool = False,
    model: Model | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of the counts in the image of one dislocation core.

    Parameters
    ----------
    position : array (2,), nm
        Core in the plane across its line, along b and along n.
    character : int or array (3, 3)
        1 to 12, or rows b, n, t.
    background, readout : float
        B and s in fractions of the maximum of F: (5 %, 1 %) is the published low noise, (10 %, 5 %) the high.
    legacy, model
        See :func:`core_signal`.

    Returns
    -------
    mean, variance : array (50, 50), float64
        F + B and F + B + s², [x pixel, y pixel]: the counts are independent normal numbers.

    Raises
    ------
    InputError
        See :func:`core_signal`; also a negative fraction.

    Examples
    --------
    >>> mean, variance = core_image((-130.8, -16.4), 1, legacy=True)
    >>> bool((variance > mean).all())
    True
    """
    counts, _ = core_signal(position, character, legacy=legacy, model=model)
    return _noise(counts, background, readout)


def _noise(counts: np.ndarray, background: float, readout: float) -> tuple[np.ndarray, np.ndarray]:
    if not (0 <= background < np.inf and 0 <= readout < np.inf):
        found = "are not both 0 or more"
        raise InputError(f"background {background} and readout {readout}", found, "give fractions of the maximum")
    mean = counts + background * counts.max()
    return mean, mean + (readout * counts.max()) ** 2


def information(
    position: np.ndarray,
    character: int | np.ndarray,
    *,
    background: float = 0.05,
    readout: float = 0.01,
    legacy: bool = False,
) -> np.ndarray:
    """Expected Fisher information of the position from one image, (2, 2), float64, 1/nm².

    Parameters
    ----------
    position, character, background, readout, legacy
        See :func:`core_image`. Background and read-out noise count as known.

    Raises
    ------
    InputError
        See :func:`core_image`.

    Notes
    -----
    With J = dF/dposition and the variance v of a normal distribution whose mean and variance both contain F::

        I = J^T diag(1/v + 1/(2 v²)) J

    No unbiased estimate has a smaller rms error than √(tr I^-1).

    Examples
    --------
    >>> bound = np.sqrt(np.trace(np.linalg.inv(information((0.0, 0.0), 5, legacy=True))))
    >>> bool(0.2 < bound < 2)
    True
    """
    counts, slopes = core_signal(position, character, legacy=legacy, gradient=True)
    _, variance = _noise(counts, background, readout)
    return np.einsum("xyi,xy,xyj->ij", slopes, 1 / variance + 0.5 / variance**2, slopes)


def image_to_dislocation(image: np.ndarray, character: int | np.ndarray, *, legacy: bool = False) -> np.ndarray:
    """Position (..., 2) across the line, nm, of a point of the image at the centre of the light sheet.

    Parameters
    ----------
    image : array (..., 2), nm
        Along y, and along x as projected on the detector: x = v tan(2 theta).
    character : int or array (3, 3)
        1 to 12, or rows b, n, t.
    legacy : bool
        Geometry of the published model.

    Raises
    ------
    InputError
        A last axis that is not 2, or a character that is not an edge.

    Examples
    --------
    >>> image_to_dislocation(np.zeros(2), 1).tolist()
    [0.0, 0.0]
    """
    image = np.asarray(image, np.float64)
    if image.shape[-1:] != (2,):
        raise InputError(f"image points of shape {image.shape}", "are not pairs of coordinates", "give (..., 2)")
    turn, _ = _sample_to_lab(LEGACY if legacy else Model())
    lab = np.stack([image[..., 1] * np.tan(2 * _THETA), image[..., 0]], axis=-1)
    return lab @ (_rows(character) @ turn.T)[:2, :2].T
