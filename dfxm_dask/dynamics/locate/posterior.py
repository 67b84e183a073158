"""Posterior of the positions of cores: optima, importance sampling round them, evidence."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from scipy.special import gammaln, logsumexp
from scipy.stats import qmc
from scipy.special import ndtri, gammaincinv

from dfxm_dask.dynamics.locate.likelihood import NUISANCES, Window, descend, minus_log_posterior

CAP = 0.15  # um: longest step of a core
DEGREES = 5.0  # of freedom of the proposals
WIDER = 1.2
APART = 0.3
WIDE = 4.0


@njit(cache=True, nogil=True)
def _values(window, lines, samples):
    none, empty = np.empty(0), np.empty((0, 0))
    out = np.empty(len(samples))
    for k in range(len(samples)):
        out[k] = minus_log_posterior(window, lines, samples[k], none, empty)[0]
    return out


def optima(window: Window, lines: np.ndarray, starts: np.ndarray, tolerance: float = 1e-5):
    """Distinct optima reached from the starts, best first: list of (parameters, value, chi2, covariance)."""
    found = []
    evaluations = 0
    for start in starts:
        here, value, chi2, information, n, ok = descend(window, lines, start, CAP, tolerance, 40)
        evaluations += n
        if not np.isfinite(value):
            continue
        try:
            covariance = np.linalg.inv(information)
        except np.linalg.LinAlgError:
            continue
        found.append((here, value, chi2, covariance, ok))
    found.sort(key=lambda one: one[1])
    kept = []
    for one in found:
        p = 2 * len(lines)
        same = False
        for k in kept:
            d = one[0][:p] - k[0][:p]
            same = same or d @ np.linalg.solve(k[3][:p, :p], d) < APART**2 * p + 0 or np.abs(d).max() < 2e-5
        if not same:
            kept.append(one)
    return kept, evaluations


def sampled(window, lines, kept, count, seed, rounds=2):
    p = 2 * len(lines)
    free = np.r_[np.ones(p, bool), window.spread > 0]
    d = int(free.sum())
    best = kept[0][1]
    modes = [k for k in kept if k[1] < best + 12]
    centres = [m[0][free] for m in modes]
    covs = [m[3][np.ix_(free, free)] * WIDER**2 for m in modes]
    logz = np.array([-m[1] + 0.5 * np.linalg.slogdet(m[3][np.ix_(free, free)])[1] for m in modes])
    share = np.exp(logz - logsumexp(logz)); share = np.maximum(share, 0.02); share /= share.sum()
    n0 = len(modes)
    centres, covs, share = centres * 2, covs + [c * WIDE**2 for c in covs], np.concatenate([0.5*share, 0.5*share])
    S, V, Q = [], [], []
    for r in range(rounds):
        u = qmc.Sobol(d + 2, seed=seed + r).random(count)
        pick = np.minimum(np.searchsorted(np.cumsum(share), u[:, 0]), len(share) - 1)
        chi = 2 * gammaincinv(DEGREES / 2, u[:, 1]) / DEGREES
        z = ndtri(np.clip(u[:, 2:], 1e-12, 1 - 1e-12)) / np.sqrt(chi)[:, None]
        s = np.empty((count, d))
        chol = [np.linalg.cholesky(c) for c in covs]
        for m in range(len(centres)):
            w = pick == m
            s[w] = centres[m] + z[w] @ chol[m].T
        full = np.broadcast_to(kept[0][0], (count, len(free))).copy()
        full[:, free] = s
        value = _values(window, lines, full)
        S.append(full); V.append(value)
        Q.append((centres, chol, share))
        alls, allv = np.concatenate(S), np.concatenate(V)
        logq = logsumexp([_logt(alls[:, free], *q) for q in Q], axis=0) - np.log(len(Q))
        logw = -allv - logq
        top = logw.max()
        w = np.exp(logw - top)
        logz_is = top + np.log(w.mean())
        w /= w.sum()
        ess = 1 / (w**2).sum()
        mean = w @ alls
        cov = np.cov(alls[:, free].T, aweights=w, ddof=0).reshape(d, d)
        if r + 1 < rounds:
            centres, covs, share = [mean[free]], [cov * 1.2**2 + 1e-30 * np.eye(d)], np.ones(1)
    return mean, cov, logz_is, ess, alls, w


def _logt(s, centres, chol, share):
    d = s.shape[1]
    parts = []
    for c, l, a in zip(centres, chol, share):
        z = np.linalg.solve(l, (s - c).T)
        t = -0.5 * (DEGREES + d) * np.log1p((z**2).sum(0) / DEGREES)
        n = gammaln((DEGREES + d) / 2) - gammaln(DEGREES / 2) - 0.5 * d * np.log(DEGREES * np.pi)
        parts.append(np.log(a) + n + t - np.log(np.diag(l)).sum())
    return logsumexp(parts, axis=0)


COARSE, FINE, REACH, SPARSE = 7, 41, 5.0, 80


@njit(cache=True, nogil=True)
def _terms(window, line, positions, nuisances, gradient):
    out = np.zeros((len(positions), 4))
    size = 5 if gradient else 0
    score, information = np.empty(size), np.empty((size, size))
    parameters = np.empty(5)
    parameters[2:] = nuisances
    for k in range(len(positions)):
        parameters[:2] = positions[k]
        out[k, 0] = minus_log_posterior(window, line, parameters, score, information)[0]
        if gradient:
            out[k, 1:] = score[2:]
    return out


def near_part(window, line, position, margin=0.1):
    """Rectangle of pixels whose columns the line crosses, as slices."""
    reach = window.optics.points
    t = line[0, 6:9]
    z = np.array([reach[:, 2].min(), reach[:, 2].max()])
    out = []
    for side, pix, blur in ((0, window.y, window.blur_y), (1, window.x, window.blur_x)):
        col = 1 - side
        pts = reach[np.abs(reach[:, 2][:, None] - z).argmin(0), col]
        # line at height z, minus the shear of the column
        at = position[side] + t[col] / t[2] * z - pts
        inner = pix[blur.size - 1 : pix.size - blur.size + 1]
        half = (pix[1] - pix[0]) / 2 + margin
        hit = np.flatnonzero((inner > at.min() - half) & (inner < at.max() + half))
        out.append(slice(int(hit[0]), int(hit[-1]) + 1) if hit.size else slice(0, 0))
    return out


def part_window(window, rows, columns):
    my, mx = window.blur_y.size - 1, window.blur_x.size - 1
    return window._replace(
        counts=np.ascontiguousarray(window.counts[rows, columns]), valid=np.ascontiguousarray(window.valid[rows, columns]),
        y=window.y[rows.start : rows.stop + 2 * my].copy(), x=window.x[columns.start : columns.stop + 2 * mx].copy(),
        spread=np.where(window.spread > 0, np.inf, 0.0),
        box=np.array([[-np.inf] * 2, [np.inf] * 2]),
    )


def gridded(window, line, start, margin=0.1, fine=FINE):
    """Posterior of one core on a grid round a smooth optimum."""
    from scipy.interpolate import RectBivariateSpline
    free = window.spread > 0
    rows, columns = near_part(window, line, start[:2], margin)
    valid = window.valid.copy(); valid[rows, columns] = False
    far = window._replace(valid=valid)
    centre, _, _, information, n1, ok = descend(far, line, start, CAP, 1e-5, 40)
    covariance = np.linalg.inv(information)
    root = np.linalg.cholesky(covariance[:2, :2])
    near = part_window(window, rows, columns)
    wide = window._replace(box=near.box)
    coarse = np.linspace(-REACH, REACH, COARSE)
    dense = np.linspace(-REACH, REACH, fine)
    grid = np.stack(np.meshgrid(coarse, coarse, indexing="ij"), -1).reshape(-1, 2)
    places = centre[:2] + grid @ root.T
    gradient = bool(free.any())
    smooth = _terms(wide, line, places, centre[2:], gradient) - _terms(near, line, places, centre[2:], gradient)
    splines = [RectBivariateSpline(coarse, coarse, smooth[:, k].reshape(COARSE, COARSE)) for k in range(4 if gradient else 1)]
    h = information[2:, 2:][np.ix_(free, free)]
    def evaluated(white):
        inside = (np.abs(white) <= REACH).all(1)
        points = centre[:2] + white @ root.T
        inside &= ((points >= window.box[0]) & (points <= window.box[1])).all(1)
        values = np.full(len(points), np.inf)
        terms = np.stack([s(white[inside, 0], white[inside, 1], grid=False) for s in splines], -1)
        keep = terms[:, 0] < smooth[:, 0].min() + 60
        inside[inside] = keep
        mine = terms[keep] + _terms(near, line, points[inside], centre[2:], gradient)[:, : terms.shape[1]]
        values[inside] = mine[:, 0]
        if gradient:
            s = mine[:, 1:][:, free]
            values[inside] += 0.5 * np.linalg.slogdet(h)[1] - 0.5 * np.einsum("ki,ki->k", s, np.linalg.solve(h, s.T).T)
        return points, values
    white = np.stack(np.meshgrid(dense, dense, indexing="ij"), -1).reshape(-1, 2)
    points, values = evaluated(white)
    cell = (dense[1] - dense[0]) ** 2 * np.linalg.det(root)
    w = np.exp(values.min() - values); w /= w.sum()
    if 1 / (w**2).sum() < SPARSE:
        m = w @ white
        c = ((white - m) * w[:, None]).T @ (white - m) + (dense[1] - dense[0]) ** 2 / 12 * np.eye(2)
        r2 = np.linalg.cholesky(c)
        white = m + white * (4.5 / REACH) @ r2.T
        points, values = evaluated(white)
        cell *= np.linalg.det(r2) * (4.5 / REACH) ** 2
    return points, values, cell, centre, covariance, n1
