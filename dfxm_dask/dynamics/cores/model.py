"""Image model and windows of :func:`locate_cores`, and the numpy function itself."""

from __future__ import annotations

import itertools
from dataclasses import replace
from math import cos, sin
from typing import NamedTuple

import numpy as np
from scipy.special import logsumexp

from dfxm_dask.dynamics.cores.likelihood import Window
from dfxm_dask.dynamics.cores.posterior import (
    DISTANT,
    FLAG,
    Posterior,
    _failed,
    _log_prior,
    joint_starts,
    one_core,
    optima,
    several_cores,
)
from dfxm_dask.dynamics.cores.search import DIVISION, starts
from dfxm_dask.errors import InputError
from dfxm_dask.optics.core_image import CHARACTERS, LEGACY, Model, core_optics
from dfxm_dask.optics.defects.dislocation import line_table, lines
from dfxm_dask.optics.forward import seen, setting, sheet_nodes
from dfxm_dask.optics.instrument.microscope import find_microscope
from dfxm_dask.optics.line_images import Optics, acceptance_tables
from dfxm_dask.optics.resolution import coefficients

STUDY = "brennan_al002"
STARTS = 4  # optima of the search from which the descent starts
TIE = 3.0  # difference of log evidence below which two characters are not distinguished (our choice)
MOST_CORES, MOST_COMBINATIONS = 3, 16
BEST = 2  # characters of each of several cores that are combined where all would be too many combinations
FLAT = 0.1  # least sine of the angle between a line and the plane of the image


def spread_points(optics: Optics, pitch: tuple[float, float], divisions: int) -> Optics:
    """Optics whose pixels average over divisions x divisions points of every height.

    Parameters
    ----------
    optics : Optics
    pitch : (float, float), um
        Of the pixels along y and x.
    divisions : int
        1 leaves the points at the centres of the pixels.
    """
    inside = (np.arange(divisions) - (divisions - 1) / 2) / divisions
    dx, dy = (grid.ravel() for grid in np.meshgrid(inside * pitch[1], inside * pitch[0]))
    moved = np.stack([dx, dy, np.zeros_like(dx)], axis=-1)
    points = (optics.points[:, None] + moved).reshape(-1, 3)
    return optics._replace(points=points, weights=np.repeat(optics.weights / divisions**2, divisions**2))


def study_optics(legacy: bool = False, divisions: int = 1) -> tuple[Optics, np.ndarray]:
    """Optics of the study of Brennan (2022), whose images have 75 nm pixels along y and x, and its 12 lines (12, 15).

    Parameters
    ----------
    legacy : bool
        The published model with its errors.
    divisions : int
        Points of a pixel along each side; the published images have 1.
    """
    model = LEGACY if legacy else Model()
    parts = [core_optics(number, model) for number in range(1, len(CHARACTERS) + 1)]
    optics = spread_points(parts[0][0], (0.075, 0.075), divisions)
    return optics, np.concatenate([line for _, line, _ in parts])


def microscope_optics(
    microscope: str,
    pitch: tuple[float, float],
    *,
    angle: float = 0.0,
    tail: float = 0.0,
    tail_width: float = 2.5e-5,
    heights: int = 9,
    divisions: int = 2,
    sheet: float | None = None,
    poisson: float = 0.334,
) -> Optics:
    """Optics of a published microscope; the counts of a pixel are relative to the perfect crystal at its peak.

    Parameters
    ----------
    microscope : str
        See :data:`dfxm_dask.optics.instrument.microscope.MICROSCOPES`.
    pitch : (float, float), um
        Of the pixels along y and x.
    angle : float, rad
        Rocking angle from the peak of the perfect crystal.
    tail, tail_width : float, float (rad)
        See :func:`dfxm_dask.optics.frame_image.accepted_by`.
    heights, divisions : int
        Heights in the light sheet, and points of a pixel along each side.
    sheet : float, um, optional
        Height of the light sheet, rms; by default that of the microscope.
    poisson : float
    """
    scope = find_microscope(microscope)
    if sheet is not None:
        scope = replace(scope, sheet=sheet)
    at = setting(scope.theta, eta=scope.eta)
    matrix, shift = seen(at, {"phi": angle})
    height, weight = sheet_nodes(scope, heights)
    half = cos(scope.theta) * scope.divergence_v_cut
    roll = (scope.aperture**2 + scope.divergence_h**2) / (2 * sin(scope.theta)) ** 2
    if tail and not half < np.inf:
        raise InputError("tail", f"microscope {microscope!r} has no cut of its divergence", "give tail=0")
    tables = acceptance_tables(
        coefficients(scope), tail=tail, tail_width=tail_width, half=half if tail else 0.0, roll=0.5 / roll
    )
    optics = Optics(
        direction=at.direction,
        matrix=matrix @ at.to_sample,
        shift=matrix @ shift,
        move=matrix @ at.moves["phi"],
        points=np.outer(height, at.shear),
        weights=weight,
        **tables,
        poisson=poisson,
        tilt=np.zeros(4),
    )
    return spread_points(optics, pitch, divisions)


def line_rows(burgers: np.ndarray, directions: np.ndarray, *, core: float = 0.0, poisson: float = 0.334) -> np.ndarray:
    """Table (line, 15) of straight lines of any character.

    Parameters
    ----------
    burgers : array (line, 3), um
        Burgers vectors in the axes x, y, z of the store.
    directions : array (line, 3)
    core : float, um
    poisson : float

    Raises
    ------
    InputError
        A line within 6 degree of the plane of the image, which it does not cross at one position.
    """
    directions = np.atleast_2d(np.asarray(directions, np.float64))
    table = line_table(lines(np.zeros((len(directions), 3)), burgers, directions, core), poisson)
    flat = np.abs(table[:, 8]) < FLAT
    if flat.any():
        found = f"row {int(np.argmax(flat))} is {directions[flat][0].tolist()}, within 6 degree of the plane z = 0"
        raise InputError("line directions", found, "give lines that cross the light sheet")
    return table


class Camera(NamedTuple):
    """Noise and blur of a camera.

    Attributes
    ----------
    gain, offset, read_noise : float, count
        Counts of one photon, counts without light, rms noise without light.
    model_error : float
        Rms error of the model, as a fraction of the counts above the background; for the normal distribution only.
    blur : float, pixel
        Standard deviation of the Gaussian blur.
    poisson : bool
        Shifted Poisson distribution instead of the normal one of equal mean and variance.
    """

    gain: float = 1.0
    offset: float = 0.0
    read_noise: float = 0.0
    model_error: float = 0.0
    blur: float = 0.0
    poisson: bool = False


CAMERA = Camera()


class Nuisances(NamedTuple):
    """Mean and spread of the normal priors of the quantities that the image shares; a spread of 0: known.

    Attributes
    ----------
    angle : (float, float), rad
        Local rotation of the lattice about the rocking axis.
    slope : float, rad/um
        Spread of the change of this rotation along y and along x, whose mean is 0: other dislocations bend the lattice.
    scale : (float, float) or None
        Counts at full acceptance; None: from the image, with a spread of the same size.
    background : (float, float) or None
        Counts; None: from the image.
    """

    angle: tuple[float, float] = (0.0, 0.0)
    slope: float = 0.0
    scale: tuple[float, float] | None = None
    background: tuple[float, float] | None = None


UNKNOWN = Nuisances()


def window_of(
    counts: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    optics: Optics,
    box: np.ndarray,
    camera: Camera = CAMERA,
    nuisances: Nuisances = UNKNOWN,
) -> Window:
    """A window of counts with its model; NaN marks invalid pixels."""
    counts = np.ascontiguousarray(counts, np.float64)
    valid = np.isfinite(counts)
    if valid.sum() < 9:
        raise InputError("counts", f"have {int(valid.sum())} valid pixels", "give a window with 9 or more")
    half = np.ones(1)
    if camera.blur > 0:
        half = np.exp(-0.5 * (np.arange(int(np.ceil(3.5 * camera.blur)) + 1) / camera.blur) ** 2)
        half /= 2 * half.sum() - half[0]
    margin = half.size - 1
    step = y[1] - y[0], x[1] - x[0]
    wide = [p[0] + s * np.arange(-margin, p.size + margin) for p, s in zip((y, x), step, strict=True)]
    low, high = np.percentile(counts[valid], [20, 99.5])
    background = nuisances.background or (float(low), float(high - low) + 3 * camera.read_noise + 1.0)
    contrast = float(high - background[0]) if high > background[0] else 1.0
    # The brightest pixels of a core reach some 0.7 of the acceptance: the width of the prior covers 0.3 to 1.
    scale = nuisances.scale or (1.5 * contrast / optics.weights.sum(), 1.5 * contrast / optics.weights.sum())
    slope = 0.0, nuisances.slope
    known = np.array([nuisances.angle, slope, slope, scale, background])
    fill = np.where(valid, counts, background[0])
    return Window(
        counts=fill,
        valid=valid,
        y=wide[0],
        x=wide[1],
        blur_y=half,
        blur_x=half.copy(),
        optics=optics,
        gain=camera.gain,
        offset=camera.offset,
        read_noise=camera.read_noise,
        model_error=camera.model_error,
        poisson=camera.poisson,
        box=np.asarray(box, np.float64).reshape(2, -1),
        mean=known[:, 0].copy(),
        spread=known[:, 1].copy(),
    )


class Located(NamedTuple):
    """Cores of one window.

    Attributes
    ----------
    best : Posterior
        Of the most probable characters.
    characters : tuple of int
        Row of the character of every core.
    log_evidence : array (character,)
        For one core, of every character; for several, of every character in any of the cores, summed over the
        characters of the others. Of characters far from the best one by Laplace's method for one core, NaN for several.
    possible : array (core, character), bool
        Characters that the image does not distinguish from the best one of the core, which is among them.
    """

    best: Posterior
    characters: tuple[int, ...]
    log_evidence: np.ndarray
    possible: np.ndarray


def locate_cores(window: Window, table: np.ndarray, cores: int = 1, *, seed: int = 0) -> Located:
    """Positions of one to three cores in a window, and the evidence of their characters.

    Parameters
    ----------
    window : Window
        From :func:`window_of`.
    table : array (character, 15)
        Possible characters of every core, from :func:`line_rows` or :func:`study_optics`.
    cores : int
        1 to 3.
    seed : int
        Of the sampling for several cores.

    Raises
    ------
    InputError
        More than three cores.

    Notes
    -----
    With more than 16 combinations of characters, several cores are first located one by one, and the two characters
    of each core are combined that fit best.
    """
    if not 1 <= cores <= MOST_CORES:
        raise InputError("cores", f"is {cores}", f"locate 1 to {MOST_CORES} cores at once")
    if cores == 1:
        return _single(window, table)
    combinations = list(itertools.product(*_candidates(window, table, cores)))
    if (window.box.reshape(2, cores, 2) == window.box.reshape(2, cores, 2)[:, :1]).all():
        combinations = sorted({tuple(sorted(c)) for c in combinations})
    begun = [joint_starts(window, table[list(c)], STARTS) for c in combinations]
    reached = [optima(window, table[list(c)], b) for c, b in zip(combinations, begun, strict=True)]
    least = min((r[0].value for r in reached if r), default=np.inf)
    made: dict[tuple[int, ...], Posterior] = {}
    for combination, found in zip(combinations, reached, strict=True):
        if found and found[0].value < least + DISTANT / 2:
            begin = np.array([one.parameters for one in found])
            made[combination] = several_cores(window, table[list(combination)], begin, seed)
    evidence = np.full(len(table), np.nan)
    possible = np.zeros((cores, len(table)), bool)
    if not made:
        return Located(_failed(cores, FLAG["not_converged"]), (0,) * cores, evidence, possible)
    winner = max(made, key=lambda c: made[c].log_evidence)
    for k in {character for c in made for character in c}:
        evidence[k] = logsumexp([p.log_evidence for c, p in made.items() if k in c])
    for c, p in made.items():
        if p.log_evidence > made[winner].log_evidence - TIE:
            possible[np.arange(cores), list(c)] = True
    return Located(made[winner], winner, evidence, possible)


def _candidates(window: Window, table: np.ndarray, cores: int) -> list[list[int]]:
    """Characters of each core that are combined: all, or those that fit best with each core alone in the window."""
    if len(table) ** cores <= MOST_COMBINATIONS:
        return [list(range(len(table)))] * cores
    out = []
    for core in range(cores):
        alone = window._replace(box=np.ascontiguousarray(window.box[:, 2 * core : 2 * core + 2]))
        found = [optima(alone, line[None], starts(alone, line[None], 1)) for line in table]
        values = [one[0].value if one else np.inf for one in found]
        out.append(sorted(int(k) for k in np.argsort(values, kind="stable")[:BEST]))
    return out


def _single(window: Window, table: np.ndarray) -> Located:
    """One core: every character by its optimum of a coarse search, then the posterior of those that play a role."""
    evidence = np.full(len(table), -np.inf)
    quick = np.full(len(table), np.inf)
    division = 2 if len(table) > 2 else DIVISION
    begun = [starts(window, line[None], STARTS, division) for line in table]
    if len(table) > 1:
        for k, line in enumerate(table):
            found = optima(window, line[None], begun[k][:1])
            if found:
                quick[k] = found[0].value
                evidence[k] = -found[0].value + 0.5 * np.linalg.slogdet(2 * np.pi * found[0].covariance)[1]
    evidence -= _log_prior(window)
    made: dict[int, Posterior] = {}
    for k, line in enumerate(table):
        if len(table) == 1 or quick[k] < quick.min() + 2 * DISTANT:
            begin = begun[k] if division == DIVISION else starts(window, line[None], STARTS)
            made[k] = one_core(window, line[None], begin)
            evidence[k] = made[k].log_evidence
    possible = np.zeros((1, len(table)), bool)
    if not made:
        return Located(_failed(1, FLAG["not_converged"]), (0,), evidence, possible)
    winner = max(made, key=lambda k: made[k].log_evidence)
    possible[0] = [k in made and made[k].log_evidence > made[winner].log_evidence - TIE for k in range(len(table))]
    return Located(made[winner], (winner,), evidence, possible)
