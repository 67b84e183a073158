"""Evidence and probabilities of all candidates from the bins of all layers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from dfxm_dask.identify.combine import ranking
from dfxm_dask.identify.curves.bins import FEWEST, searched, usable
from dfxm_dask.identify.curves.fit import Fit, Maps, fit
from dfxm_dask.identify.curves.model import Lines, Response
from dfxm_dask.identify.curves.search import Found, search
from dfxm_dask.identify.evidence import SAME, crossing
from dfxm_dask.identify.match import ANSWER, CANDIDATE, LAYER, YX
from dfxm_dask.reduction import Arrays
from dfxm_dask.schema import XYZ, Variable

FIRST, MOST, BEHIND, DOUBT = 6, 48, 20.0, 0.05
"""Candidates fitted first, largest number fitted, and the log evidence, and fraction of the gain of the search, by
which those are behind that are not fitted (our choice)."""
TEMPERED = 2.0  # factor of the variance above which a remark is made (our choice)
EXPLAINED = 0.5  # fraction of chi2 that the best candidate must explain where residuals exceed the noise (our choice)
REASONS = (
    (1, "no_curves"),  # no pixel with a centre of mass, or no scan axis that turns the crystal
    (2, "misfit"),  # the best candidate explains less than half of what a perfect lattice leaves
    (4, "no_dislocation"),
    (8, "errors_from_scatter"),  # no standard errors of the centre of mass
    (16, "residuals_beyond_errors"),  # probabilities are tempered
)
FLAG = {meaning: mask for mask, meaning in REASONS}
CLASSES = "class from curves: 0 equal to the best within noise, 1 distinguished, 2 no contrast"
WRITES = (
    Variable("curve_burgers", (CANDIDATE, XYZ), "float64", "um", "Burgers vector"),
    Variable("curve_line", (CANDIDATE, XYZ), "float64", "1", "line direction"),
    Variable("curve_plane_normal", (CANDIDATE, XYZ), "float64", "1", "normal of the slip plane"),
    Variable("curve_line_angle", (CANDIDATE,), "float64", "degree", "angle from the Burgers vector to the line"),
    Variable("curve_probability", (CANDIDATE,), "float64", "1", "probability of a candidate from rocking curves"),
    Variable("curve_log_evidence", (CANDIDATE,), "float64", "1", "logarithm of the evidence from rocking curves"),
    Variable("curve_class", (CANDIDATE,), "int64", "1", CLASSES),
    Variable("curve_opposite", (CANDIDATE,), "int64", "1", "number of the candidate with the opposite Burgers vector"),
    Variable("curve_position", (CANDIDATE, YX), "float64", "um", "y and x at which a line crosses the first layer"),
    Variable("curve_position_error", (CANDIDATE, YX), "float64", "um", "standard error of the position of a line"),
    Variable("curve_none_probability", (ANSWER,), "float64", "1", "probability of a lattice without a dislocation"),
    Variable("curve_class_probability", (ANSWER,), "float64", "1", "probability of the class of the best candidate"),
    Variable("curve_sign_probability", (ANSWER,), "float64", "1", "probability of the sign of the Burgers vector"),
    Variable("curve_temper", (ANSWER,), "float64", "1", "factor of the variance from residuals beyond the errors"),
    Variable("curve_chi2", (LAYER,), "float64", "1", "squared residual of the best candidate over the variance"),
    Variable("curve_reason", (ANSWER,), "uint16", "1", "reasons for missing probabilities, and remarks", flags=REASONS),
)
PER_LAYER = ("bin_centre", "bin_information", "bin_z")


class Options(NamedTuple):
    """Numbers that the finish needs: um, rad, and a probability."""

    inner: float
    outer: float
    floor: float
    none_prior: float
    height: float
    scatter: float
    order: float
    floor_y: float
    floor_x: float


def joined(first: Arrays, second: Arrays) -> Arrays:
    return {n: np.concatenate([first[n], second[n]]) if n in PER_LAYER else first[n] for n in first}


def finish(made: Arrays) -> Arrays:
    """Evidence of all candidates from the bins of all layers."""
    options = Options(*made["option"])
    lines = Lines(*(made[f"line_{field}"] for field in Lines._fields))
    response = Response(*(made[f"response_{field}"] for field in Response._fields))
    n, order = len(lines.frame), int(options.order)
    upwards = np.argsort(made["bin_z"], kind="stable")
    made = made | {name: made[name][upwards] for name in PER_LAYER}
    one, reasons = np.full(1, np.nan), FLAG["errors_from_scatter"] if options.scatter else 0
    out = {v.name: made[v.name] for v in WRITES if v.name in made} | {
        "curve_probability": np.full(n, np.nan),
        "curve_log_evidence": np.full(n, np.nan),
        "curve_class": np.ones(n, np.int64),
        "curve_position": np.full((n, 2), np.nan),
        "curve_position_error": np.full((n, 2), np.nan),
        "curve_none_probability": one,
        "curve_class_probability": one,
        "curve_sign_probability": one,
        "curve_temper": one,
        "curve_chi2": np.full(len(upwards), np.nan),
        "curve_reason": np.array([reasons | FLAG["no_curves"]], np.uint16),
    }
    used = usable(made, options.floor)
    if not used.layers.size:
        return out
    found = search(lines, *searched(used, response), used.pitch)
    start = np.stack([found.place[:, 1] - used.centre[1], found.place[:, 0] - used.centre[0]], axis=1)
    start = np.einsum("nij,nj->ni", lines.frame[:, :2, :2], start)
    ranked = np.argsort(-found.gain, kind="stable")
    first = {int(k): fit(lines, int(k), used.maps, response, start[k], order) for k in ranked[:FIRST]}
    best = min(first, key=lambda k: first[k].chi2)
    distance = np.linalg.norm(used.maps.place @ lines.frame[best, :2].T - first[best].at, axis=1)
    near = (distance >= options.inner) & (distance <= options.outer)
    for layer in np.unique(used.maps.layer):
        if (near & (used.maps.layer == layer)).sum() < FEWEST:
            near &= used.maps.layer != layer
    if not near.any():
        return out
    maps, block = used.part(near)
    temper = _temper(fit(lines, best, maps, response, first[best].at, order), block)
    behind = 2 * temper * BEHIND + DOUBT * max(float(found.gain.max()), 0.0)
    wanted = ranked[: int(np.clip((found.gain > found.gain.max() - behind).sum(), FIRST, MOST))]
    fits = {int(k): fit(lines, int(k), maps, response, first[k].at if k in first else start[k], order) for k in wanted}
    best = min(fits, key=lambda k: fits[k].chi2)
    temper = _temper(fits[best], block)
    none = fit(None, 0, maps, response, np.zeros(2), order)
    logs = np.full(n, np.nan)
    area = _areas(made, lines, options.height)
    for k, one_fit in fits.items():
        volume = np.log(2 * np.pi * temper) + 0.5 * (none.log_determinant - one_fit.log_determinant)
        logs[k] = (none.chi2 - one_fit.chi2) / (2 * temper) + volume - np.log(area[k])
        at, error = crossing(lines.frame[k].ravel(), one_fit.at, np.linalg.pinv(temper * one_fit.covariance))
        out["curve_position"][k], out["curve_position_error"][k] = (
            at + used.centre,
            np.hypot(error, [options.floor_y, options.floor_x]),
        )
    rest = np.isnan(logs)
    logs[rest] = logs[best] + np.minimum((found.gain[rest] - found.gain.max()) / (2 * temper), 0.0)
    return out | _probabilities(made, found, fits, none, maps, logs, temper, best, options, reasons)


def _probabilities(
    made: Arrays,
    found: Found,
    fits: dict[int, Fit],
    none: Fit,
    maps: Maps,
    logs: np.ndarray,
    temper: float,
    best: int,
    options: Options,
    reasons: int,
) -> Arrays:
    """Probabilities, classes and reasons from the evidence."""
    explained = 1 - fits[best].chi2 / max(none.chi2, 1e-300)
    answer = ranking(logs, prior_none=options.none_prior)
    distance = np.full(len(logs), np.inf)
    for k, one in fits.items():
        distance[k] = ((one.residual - fits[best].residual) ** 2).sum() / temper
    dark = found.contrast / temper < SAME
    same = (distance < SAME) & ~dark
    turned = np.zeros(len(logs), bool)
    turned[made["curve_opposite"][same]] = True
    turned &= ~same
    if temper > TEMPERED:
        reasons |= FLAG["residuals_beyond_errors"]
    if answer.none + answer.probability[dark].sum() > 0.5:
        reasons |= FLAG["no_dislocation"]
    elif temper > TEMPERED and explained < EXPLAINED:
        reasons |= FLAG["misfit"]
    stated = np.nan if reasons & FLAG["misfit"] else 1.0
    both = answer.probability[same].sum(), answer.probability[turned].sum()
    chi2 = np.full(len(made["bin_z"]), np.nan)
    for layer in np.unique(maps.layer):
        chi2[layer] = np.mean(fits[best].residual[maps.layer == layer] ** 2)
    return {
        "curve_probability": answer.probability * stated,
        "curve_log_evidence": logs,
        "curve_class": np.where(dark, 2, np.where(same, 0, 1)),
        "curve_none_probability": np.array([answer.none * stated]),
        "curve_class_probability": np.array([both[0] * stated]),
        "curve_sign_probability": np.array([both[0] / max(sum(both), 1e-300) * stated if same.any() else np.nan]),
        "curve_temper": np.array([temper]),
        "curve_chi2": chi2,
        "curve_reason": np.array([reasons], np.uint16),
    }


def _temper(one: Fit, block: np.ndarray) -> float:
    """Factor of the variance: mean squared residual, or that of means over blocks; at least 1."""
    sums = np.array([np.bincount(block, column) for column in one.residual.T])
    size = np.bincount(block)
    return max(1.0, float((one.residual**2).mean()), float((sums**2).sum() / (size.sum() * len(sums))))


def _areas(made: Arrays, lines: Lines, height: float) -> np.ndarray:
    """Cross section (candidate,), um2, of the illuminated part of the crystal, seen along every line."""
    extent_y, extent_x = (np.ptp(made[name]) * (1 + 1 / max(made[name].size - 1, 1)) for name in ("bin_y", "bin_x"))
    t = np.abs(lines.frame[:, 2])
    return t[:, 2] * extent_x * extent_y + t[:, 0] * extent_y * height + t[:, 1] * extent_x * height
