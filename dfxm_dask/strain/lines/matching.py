"""Displacements between maps of several reflections from dislocations that they share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np

from dfxm_dask.strain.lines.inversion import RADII, Centre, Maps, centre_of_inversion, centres_of_inversion

WORST = 10.0
"""Largest chi2 per degree of freedom of a centre of inversion that counts as a dislocation (our choice)."""
WIDEST = 0.4
"""Edges of a pixel of the set: largest standard error of a centre of a dislocation (our choice)."""
CLOSE = 1.0
"""Edges of a pixel of the set: largest distance of two centres of one dislocation, beside their errors."""
GUESSES = 3
"""Displacements that are tried for each reflection."""
LARGEST = 0.6
"""Largest part of the contrast in which aligned maps contradict each other (our choice)."""
ALONE = 0.35
"""The same where the maps share a single dislocation (our choice)."""
SEEN = 3
"""Least number of maps that show a dislocation, of three maps or more."""
FAR = 4.0
"""As CLOSE, in the first of two rounds."""
SURE = 0.1
"""Edges of a pixel of the set: standard error of a centre that counts half (our choice)."""
TRIED = 10
"""Combinations of guesses that are solved."""
STRONGEST = 6
"""Largest number of centres in one map that are compared (our choice)."""

Found = tuple[np.ndarray, np.ndarray, int]
Solution = tuple[np.ndarray, np.ndarray, np.ndarray]


def displacements(
    maps: Sequence[Maps],
    pitch: float,
    contradiction: Callable[[np.ndarray], float] | None,
    expected: Sequence[np.ndarray] = (),
) -> Found | None:
    """Displacements for which the centres of inversion of all maps coincide.

    Parameters
    ----------
    maps : sequence of Maps
    pitch : float, um
        Edge of a pixel of the set.
    contradiction : callable, optional
        Takes displacements (map, yx), um, and gives the part of the contrast in which the maps contradict each other;
        the guess with the smallest part counts, if it is below :data:`LARGEST`. None: the largest number of common
        dislocations counts, which must be two or more.

    expected : sequence of array (map, yx), um
        Further guesses.

    Returns
    -------
    array (map, yx), float64, um
        Displacements from the first map.
    array (map, yx), float64, um
        Standard errors; NaN for a map without a common dislocation.
    int
        Number of common dislocations.
    None without a common dislocation.

    Notes
    -----
    All pairs of centres in two maps give guesses. With the best combinations of guesses, every dislocation is searched
    again in every map from its expected position, which also finds dislocations that the first search missed; those
    that three maps show (or both of two maps) count. Displacements s and positions p then follow from all centres
    c_nk = p_k + s_n by least squares with Huber weights; chi2 per degree of freedom above 1, and
    the scatter between dislocations, increase their errors.
    """
    centres = [[c for c in centres_of_inversion(one, pitch) if _sound(c, pitch)][:STRONGEST] for one in maps]
    ranked: list[tuple[float, float, int, np.ndarray]] = []
    for pivot, first in enumerate(centres):
        guesses = [[s[n] - s[pivot] for s in expected] for n in range(len(maps))]
        for n, other in enumerate(centres):
            guesses[n] = [np.zeros(2)] if n == pivot else _guesses(first, other, pitch) + guesses[n]
        for combined in product(*guesses):
            shift = np.array(combined)
            shared = sum(_matches(first, cs, s, pitch) for s, cs in zip(shift, centres, strict=True))
            contrast = 0.0 if contradiction is None else contradiction(shift - shift[0])
            if contrast < LARGEST:
                ranked.append((contrast, -shared, len(ranked), shift - shift[0]))
    tried: list[np.ndarray] = []
    for *_, shift in sorted(ranked, key=lambda one: one[:3]):
        if len(tried) == TRIED or any(np.abs(shift - other).max() < CLOSE * pitch for other in tried):
            continue
        tried.append(shift)
        known = _distinct([c.position - s for s, cs in zip(shift, centres, strict=True) for c in cs], pitch)
        rough = _solved(maps, shift, known, pitch, FAR)
        solved = None if rough is None else _solved(maps, rough[0], list(rough[2]), pitch, CLOSE)
        if solved is None:
            continue
        final = np.inf if contradiction is None else contradiction(solved[0])
        if len(solved[2]) > 1 or final < ALONE:
            return solved[0], solved[1], len(solved[2])
    return None


def _sound(one: Centre | None, pitch: float) -> bool:
    return one is not None and one.chi2 < WORST and np.sqrt(np.linalg.eigvalsh(one.covariance)[-1]) < WIDEST * pitch


def _size(one: Centre) -> float:
    return float(np.trace(one.covariance))


def _near(centres: Sequence[Centre], position: np.ndarray, pitch: float, close: float = CLOSE) -> bool:
    return any(np.linalg.norm(c.position - position) < close * pitch + 2 * np.sqrt(_size(c)) for c in centres)


def _distinct(positions: Sequence[np.ndarray], pitch: float) -> list[np.ndarray]:
    """Positions without those next to an earlier one."""
    kept: list[np.ndarray] = []
    for one in positions:
        if all(np.linalg.norm(one - other) > 2 * CLOSE * pitch for other in kept):
            kept.append(one)
    return kept


def _matches(first: Sequence[Centre], other: Sequence[Centre], shift: np.ndarray, pitch: float) -> float:
    """Number of pairs of centres that coincide after a displacement; uncertain ones count less."""
    pairs = [(a, b) for a in first for b in other if _near([a], b.position - shift, pitch)]
    return sum(1 / ((1 + _size(a) / (SURE * pitch) ** 2) * (1 + _size(b) / (SURE * pitch) ** 2)) for a, b in pairs)


def _guesses(first: Sequence[Centre], other: Sequence[Centre], pitch: float) -> list[np.ndarray]:
    """Displacements of the second map, those with the most pairs first."""
    every = _distinct([b.position - a.position for a in first for b in other], pitch)
    return sorted(every, key=lambda s: -_matches(first, other, s, pitch))[:GUESSES]


def _solved(
    maps: Sequence[Maps], shift: np.ndarray, known: Sequence[np.ndarray], pitch: float, close: float
) -> Solution | None:
    """Displacements from all centres near their expected positions, with errors, and the positions in the first map."""
    rows: list[tuple[int, int, Centre]] = []
    for k, position in enumerate(known):
        seen = []
        for n, one in enumerate(maps):
            start = position + shift[n]
            made = [centre_of_inversion(one, start, pitch, radius * pitch) for radius in RADII]
            sound = [c for c in made if c is not None and _sound(c, pitch) and _near([c], start, pitch, close)]
            if sound:
                seen.append((n, k, min(sound, key=_size)))
        if len(seen) >= min(SEEN, len(maps)):
            rows += seen
    cores = sorted({k for _, k, _ in rows})
    maps_seen = {n for n, _, _ in rows}
    if 0 not in maps_seen or len(maps_seen) < len(maps):
        return None
    count, others = len(cores), len(maps) - 1
    design = np.zeros((len(rows), 2, 2 * (count + others)))
    values, weight = np.zeros((len(rows), 2)), np.zeros((len(rows), 2, 2))
    for r, (n, k, centre) in enumerate(rows):
        place = cores.index(k)
        design[r, :, 2 * place : 2 * place + 2] = np.eye(2)
        if n:
            design[r, :, 2 * (count + n - 1) : 2 * (count + n)] = np.eye(2)
        values[r], weight[r] = centre.position, np.linalg.inv(centre.covariance)
    share = np.ones(len(rows))
    for _ in range(10):
        normal = np.einsum("r,rik,rij,rjm->km", share, design, weight, design)
        if not np.linalg.cond(normal) < 1e12:
            return None
        solution = np.linalg.solve(normal, np.einsum("r,rik,rij,rj->k", share, design, weight, values))
        left = values - design @ solution
        pull = np.sqrt(np.einsum("ri,rij,rj->r", left, weight, left))
        share = np.minimum(1.0, 2.0 / np.maximum(pull, 1e-12))
    freedom = 2 * len(rows) - design.shape[-1]
    chi2 = float((share * np.square(pull)).sum())
    inverse = np.linalg.inv(normal)
    variance = np.diag(inverse) * max(1.0, chi2 / max(freedom, 1))
    if count > 1:  # an error that one dislocation has in all maps counts once
        scores = np.einsum("r,rik,rij,rj->rk", share, design, weight, left)
        groups = np.array([scores[[k == core for _, k, _ in rows]].sum(axis=0) for core in cores])
        variance = np.maximum(variance, np.diag(inverse @ groups.T @ groups @ inverse) * count / (count - 1))
    error = np.sqrt(variance)
    moved = np.zeros((len(maps), 2))
    spread = np.zeros((len(maps), 2))
    moved[1:], spread[1:] = solution[2 * count :].reshape(-1, 2), error[2 * count :].reshape(-1, 2)
    return moved, spread, solution[: 2 * count].reshape(-1, 2)
