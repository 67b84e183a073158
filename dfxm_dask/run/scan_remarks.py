"""Remarks on a scan and its results: frames on different scales, layers without a weak beam, incomplete fits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import zarr

from dfxm_dask.engine.layer import frames_apart
from dfxm_dask.frames.scale import UNEVEN
from dfxm_dask.reduction import Reduction
from dfxm_dask.schema import EXPOSURE, HAS_WEAK_BEAM, MONITOR, POSITION, expand
from dfxm_dask.store.integrity.opened import RECOMPUTED, OpenStore, open_store, stale_input

WITHIN = ("frames", "rocking", "beams", "components")
"""Groups of the steps that compare the frames of a layer."""


def uneven_frames(opened: OpenStore, steps: Sequence[str], groups: Sequence[str]) -> tuple[str, ...]:
    """Warnings that steps compare frames on different scales because the recipe has no earlier step ``normalise``.

    Parameters
    ----------
    opened : OpenStore
    steps, groups : sequences of str
        Names of the steps of a recipe, and where they write.

    Returns
    -------
    tuple of str
        At most one sentence, about the monitor or the exposure.
    """
    compare = [
        k for k, (step, group) in enumerate(zip(steps, groups, strict=True)) if group in WITHIN and step != "normalise"
    ]
    if not compare or "normalise" in steps[: compare[0]]:
        return ()
    there = opened.arrays("raw")
    return scales_apart({n: _values(opened, f"raw/{n}") for n in (MONITOR.name, EXPOSURE.name) if n in there})


def scales_apart(known: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """Remark that the monitor or the exposure, arrays (z, scan axes) by name, differs between frames of one layer."""
    told = []
    for name, values in known.items():
        layers = values.astype(np.float64).reshape(len(values), -1)
        layers = np.where(layers > 0, layers, np.nan)
        with np.errstate(all="ignore"):
            lit = layers[np.isfinite(layers).any(axis=1)]
            ratio = float((np.nanmax(lit, axis=1) / np.nanmin(lit, axis=1)).max()) if len(lit) else 1.0
        if ratio > UNEVEN:
            told.append(
                f"the {name} differs between frames of one layer by a factor of up to {ratio:.3g}, and no step brings "
                "them to one scale: put `- normalise: {}` first"
            )
    return tuple(told[:1])  # one scale is enough: a monitor counts over the exposure


def positions_apart(opened: OpenStore, axes: Collection[str], reductions: Sequence[Reduction]) -> tuple[str, ...]:
    """Warnings of :func:`dfxm_dask.engine.layer.frames_apart` for the frames of a store and the steps of a recipe."""
    names = {v.name: a for a, v in zip(axes, expand(POSITION, dict.fromkeys(axes, "")), strict=True)}
    known = {names[n]: _values(opened, f"raw/{n}").astype(np.float64) for n in opened.arrays("raw") if n in names}
    return frames_apart(list(axes), known, {a: _values(opened, a) for a in known}, reductions)


def of_results(store: str | Path, groups: Collection[str]) -> tuple[str, ...]:
    """All remarks on the results in some groups of a store."""
    if not {"beams", "components", "strain"} & {*groups}:
        return ()
    opened = open_store(store)
    told = weak_beam(opened) if "beams" in groups else ()
    if "strain" in groups:  # what join has found about a set of reflections
        told += tuple(opened.provenance("raw").get("ingest", {}).get("remarks", ()))
    return (*told, *weak_beam_tails(opened), *unsettled_fits(opened)) if "components" in groups else told


def _values(opened: OpenStore, node: str) -> np.ndarray:
    """A small array, whole."""
    return np.asarray(zarr.open_array(str(opened.path / node), mode="r")[...])


def weak_beam(opened: OpenStore) -> tuple[str, ...]:
    """Remarks on layers without a weak beam, or without defects in the weak beam, with the measured reasons.

    Returns
    -------
    tuple of str
        Empty if the store has no such verdict, or if all layers have a weak beam with defects.
    """
    state = opened.states("beams").get("local_peak")
    if state is None or not state.complete:
        return ()
    from dfxm_dask.beams.weak_beam_verdict import NUMBERS, reasons  # a room that other recipes do not load

    by_mask = ("has_defects", "mask_strength") if _masked(opened) else ()
    there = set(state.writes)  # stores of earlier versions lack some
    names = (HAS_WEAK_BEAM.name, *(n for n in NUMBERS if n in there), *by_mask)
    known = {name: _values(opened, f"beams/{name}") for name in names}
    z = _values(opened, "z")
    done = [int(block[1:].partition("-")[0]) for block in state.done]
    told = []
    none = [k for k in done if not known[HAS_WEAK_BEAM.name][k]]
    plain = [k for k in done if by_mask and known[HAS_WEAK_BEAM.name][k] and not known["has_defects"][k]]
    for what, bad in (
        ("have no weak beam, hence no weak-beam images (unless integrate_beams: {insist: true})", none),
        ("have a weak beam without visible defects", plain),
    ):
        if bad:
            some = ", ".join(f"{z[k]:g}" for k in bad[:5]) + (", ..." if len(bad) > 5 else "")
            first = bad[len(bad) // 2]
            strength = float(known["mask_strength"][first]) if by_mask and bad is plain else float("nan")
            numbers = {name: float(known[name][first]) if name in known else float("nan") for name in NUMBERS}
            why = reasons(**numbers, mask_strength=strength)
            told.append(f"{len(bad)} of {len(done)} layers {what} (z = {some}); at z = {z[first]:g}: {'; '.join(why)}")
    return tuple(told)


def _masked(opened: OpenStore) -> bool:
    """Whether the store has current masks with a verdict."""
    state = opened.states("beams").get("threshold_beams")
    if state is None or not state.complete or "has_defects" not in state.writes:
        return False
    return stale_input(opened.provenance, state.provenance or {}, opened.path) is None


def weak_beam_tails(opened: OpenStore) -> tuple[str, ...]:
    """Remark that a Gram–Schmidt basis does not separate weak and strong beam, or that it is NaN.

    Returns
    -------
    tuple of str
        Empty if the store has no such basis, or a sound one.
    """
    if "gram_schmidt" not in _complete_fits(opened):
        return ()
    found = _small(opened, "gram_schmidt", "basis", "has_tails", "rms_least")
    if np.isfinite(found["basis"]).all():
        if found["has_tails"]:
            return ()
        return (
            "the scan seems not to reach the weak beam: the Gram–Schmidt basis is that of clusters of curves, not of "
            "weak and strong beam; scan further to both sides of the peak, draw the regions "
            "(gram_schmidt: {regions: ...}), or use pca",
        )
    if np.isfinite(found["rms_least"]):
        return (
            "the Gram–Schmidt basis and its coefficients are NaN: the curves of weak and strong beam are linearly "
            "dependent; draw the regions (gram_schmidt: {regions: ...}), or use pca",
        )
    return (_NOT_LIT.format("the Gram–Schmidt basis"),)


def unsettled_fits(opened: OpenStore) -> tuple[str, ...]:
    """Remarks on iterative fits of components that did not converge, and on bases that are NaN.

    Returns
    -------
    tuple of str
        A sentence for each of pca, nmf and nica to which a remark applies.
    """
    told = []
    for method in sorted({"pca", "nmf", "nica"} & _complete_fits(opened)):
        if not np.isfinite(_small(opened, method, "basis")["basis"]).all():
            told.append(_NOT_LIT.format(f"the basis of {method}"))
        elif method != "pca":
            found = _small(opened, method, "converged", "rounds", "unexplained", "optimum")
            if not found["converged"]:
                left, least = (f"{100 * float(found[name]):.4g} %" for name in ("unexplained", "optimum"))
                told.append(
                    f"{method} did not converge within {float(found['rounds']):.0f} rounds: its curves may still "
                    f"change (unexplained sum of squares {left}, lower bound {least}); request fewer components "
                    "(components: ..., or rank: noise)"
                )
    return tuple(told)


_NOT_LIT = "{} and its coefficients are NaN: no curve rises above the background; check the map lit and the background"


def _complete_fits(opened: OpenStore) -> set[str]:
    """Steps of the group of components that are complete and not older than their inputs."""
    stale = {step for step, (why, _) in opened.incomplete("components").items() if RECOMPUTED in why}
    return {step for step, state in opened.states("components").items() if state.complete} - stale


def _small(opened: OpenStore, method: str, *names: str) -> dict[str, np.ndarray]:
    """Small variables of a fit by name, without the prefix of the method."""
    return {name: _values(opened, f"components/{method}_{name}") for name in names}
