"""What a user should be told of a scan: frames not on one scale, layers without weak beam, fits that found less."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import zarr

from dfxm_dask.engine.layer import frames_apart
from dfxm_dask.frames.scale import UNEVEN
from dfxm_dask.reduction import Reduction
from dfxm_dask.schema import EXPOSURE, HAS_WEAK_BEAM, MONITOR, POSITION, expand
from dfxm_dask.store.integrity.opened import OpenStore, open_store, stale_input

WITHIN = ("frames", "rocking", "beams", "components")
"""Groups of the steps that compare the frames of a layer."""


def uneven_frames(opened: OpenStore, steps: Sequence[str], groups: Sequence[str]) -> tuple[str, ...]:
    """That frames are not on one scale, where steps compare them without ``normalise`` before all of them.

    Parameters
    ----------
    opened : OpenStore
    steps, groups : sequences of str
        Names of the steps of a recipe, and where they write.

    Returns
    -------
    tuple of str
        A sentence for the monitor and one for the exposure, each where it applies.
    """
    compare = [
        k for k, (step, group) in enumerate(zip(steps, groups, strict=True)) if group in WITHIN and step != "normalise"
    ]
    if not compare or "normalise" in steps[: compare[0]]:
        return ()
    there = opened.arrays("raw")
    return scales_apart({n: _values(opened, f"raw/{n}") for n in (MONITOR.name, EXPOSURE.name) if n in there})


def scales_apart(known: Mapping[str, np.ndarray]) -> tuple[str, ...]:
    """That the monitor or the exposure differs between frames of one layer: (z, scan axes) each, by name."""
    told = []
    for name, values in known.items():
        layers = values.astype(np.float64).reshape(len(values), -1)
        layers = np.where(layers > 0, layers, np.nan)
        with np.errstate(all="ignore"):
            lit = layers[np.isfinite(layers).any(axis=1)]
            ratio = float((np.nanmax(lit, axis=1) / np.nanmin(lit, axis=1)).max()) if len(lit) else 1.0
        if ratio > UNEVEN:
            told.append(
                f"the {name} of frames of one layer differs up to {ratio:.3g} times, and no step puts them on one "
                "scale: put `- normalise: {}` first"
            )
    return tuple(told[:1])  # one scale is enough: a monitor counts over the exposure


def positions_apart(opened: OpenStore, axes: Collection[str], reductions: Sequence[Reduction]) -> tuple[str, ...]:
    """What :func:`dfxm_dask.engine.layer.frames_apart` says of the frames of a store and the reductions of a recipe."""
    names = {v.name: a for a, v in zip(axes, expand(POSITION, dict.fromkeys(axes, "")), strict=True)}
    known = {names[n]: _values(opened, f"raw/{n}").astype(np.float64) for n in opened.arrays("raw") if n in names}
    return frames_apart(list(axes), known, {a: _values(opened, a) for a in known}, reductions)


def of_results(store: str | Path, groups: Collection[str]) -> tuple[str, ...]:
    """All that is to be said of the results in some groups of a store."""
    if not {"beams", "components"} & {*groups}:
        return ()
    opened = open_store(store)
    told = weak_beam(opened) if "beams" in groups else ()
    return (*told, *weak_beam_tails(opened), *unsettled_fits(opened)) if "components" in groups else told


def _values(opened: OpenStore, node: str) -> np.ndarray:
    """A small array, whole."""
    return np.asarray(zarr.open_array(str(opened.path / node), mode="r")[...])


def weak_beam(opened: OpenStore) -> tuple[str, ...]:
    """Which layers have no weak beam, or nothing that stands out in it, and what says so.

    Returns
    -------
    tuple of str
        Nothing where the store has no such verdict, or all layers have a weak beam with defects in it.
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
        ("have no weak beam: there are no weak-beam images of them (unless integrate_beams: {insist: true})", none),
        ("have a weak beam in which nothing stands out", plain),
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
    """Whether current masks exist with their verdict."""
    state = opened.states("beams").get("threshold_beams")
    if state is None or not state.complete or "has_defects" not in state.writes:
        return False
    return stale_input(opened.provenance, state.provenance or {}) is None


def weak_beam_tails(opened: OpenStore) -> tuple[str, ...]:
    """That a Gram–Schmidt basis is not one of weak and strong beam, or that there is none.

    Returns
    -------
    tuple of str
        Nothing where the store has no such basis, or a sound one.
    """
    if "gram_schmidt" not in _complete_fits(opened):
        return ()
    found = _small(opened, "gram_schmidt", "basis", "has_tails", "rms_least")
    if np.isfinite(found["basis"]).all():
        if found["has_tails"]:
            return ()
        return (
            "the scan does not reach its weak beam, as far as can be told: the Gram–Schmidt basis is that of clusters "
            "of curves, not of weak and strong beam; scan further to both sides of the peak, draw the regions "
            "(gram_schmidt: {regions: ...}), or rely on pca",
        )
    if np.isfinite(found["rms_least"]):
        return (
            "the Gram–Schmidt basis is NaN, and so are its coefficients: of the curves of weak and strong beam one "
            "follows from the others; draw the regions (gram_schmidt: {regions: ...}), or rely on pca",
        )
    return (_NOT_LIT.format("the Gram–Schmidt basis"),)


def unsettled_fits(opened: OpenStore) -> tuple[str, ...]:
    """Which fits of components by rounds did not converge, and which found nothing.

    Returns
    -------
    tuple of str
        A sentence for each of pca, nmf and nica to which it applies.
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
                    f"change (they leave {left} of the squares, at best {least} could be left); ask it for fewer "
                    "components (components: ..., or rank: noise)"
                )
    return tuple(told)


_NOT_LIT = (
    "{} is NaN, and so are its coefficients: no curve has light above the background; look at lit and at the background"
)


def _complete_fits(opened: OpenStore) -> set[str]:
    """Steps of the group of components that are complete, and not older than what they were made of."""
    stale = {step for step, (why, _) in opened.incomplete("components").items() if "made anew" in why}
    return {step for step, state in opened.states("components").items() if state.complete} - stale


def _small(opened: OpenStore, method: str, *names: str) -> dict[str, np.ndarray]:
    """Small variables of a fit, by what follows the method in their names."""
    return {name: _values(opened, f"components/{method}_{name}") for name in names}
