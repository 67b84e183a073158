"""What a user should be told of a scan: frames not on one scale, layers without weak beam, fits that found less."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import zarr

from dfxm_dask.beams.weak_beam_verdict import NUMBERS, reasons
from dfxm_dask.engine.layer import frames_apart
from dfxm_dask.frames.scale import UNEVEN
from dfxm_dask.reduction import Reduction
from dfxm_dask.store import scan
from dfxm_dask.store.integrity import ledger

WITHIN = ("frames", "rocking", "beams", "components")
"""Groups of the steps that compare the frames of a layer."""


def uneven_frames(store: str | Path, steps: Sequence[str], groups: Sequence[str]) -> tuple[str, ...]:
    """That frames are not on one scale, where steps compare them without ``normalise`` before all of them.

    Parameters
    ----------
    store : path
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
    told = []
    there = scan.arrays(str(store), "raw")
    for name in ("monitor", "exposure"):
        if name not in there:
            continue
        values = np.asarray(zarr.open_array(str(Path(store, "raw", name)), mode="r")[...], np.float64)
        layers = values.reshape(len(values), -1)
        layers = np.where(layers > 0, layers, np.nan)
        with np.errstate(all="ignore"):
            known = layers[np.isfinite(layers).any(axis=1)]
            ratio = float((np.nanmax(known, axis=1) / np.nanmin(known, axis=1)).max()) if len(known) else 1.0
        if ratio > UNEVEN:
            told.append(
                f"the {name} of frames of one layer differs up to {ratio:.3g} times, and no step puts them on one "
                "scale: put `- normalise: {}` first"
            )
    return tuple(told[:1])  # one scale is enough: a monitor counts over the exposure


def positions_apart(store: str | Path, axes: Collection[str], reductions: Sequence[Reduction]) -> tuple[str, ...]:
    """What :func:`dfxm_dask.engine.layer.frames_apart` says of the frames of a store and the reductions of a recipe."""
    known = [a for a in axes if Path(store, "raw", f"position_{a}").exists()]
    read = {
        p: np.asarray(zarr.open_array(str(Path(store, p)), mode="r")[...], np.float64)
        for a in known
        for p in (f"raw/position_{a}", a)
    }
    return frames_apart(list(axes), {a: read[f"raw/position_{a}"] for a in known}, read, reductions)


def of_results(store: str | Path, groups: Collection[str]) -> tuple[str, ...]:
    """All that is to be said of the results in some groups of a store."""
    told = weak_beam(store) if "beams" in groups else ()
    return (*told, *weak_beam_tails(store), *unsettled_fits(store)) if "components" in groups else told


def weak_beam(store: str | Path) -> tuple[str, ...]:
    """Which layers have no weak beam, or nothing that stands out in it, and what says so.

    Returns
    -------
    tuple of str
        Nothing where the store has no such verdict, or all layers have a weak beam with defects in it.
    """
    store = Path(store)
    state = ledger.states(store, "beams").get("local_peak") if (store / "beams").is_dir() else None
    if state is None or not state.complete:
        return ()
    by_mask = ("has_defects", "mask_strength") if _masked(store) else ()
    there = set(state.writes)  # stores of earlier versions lack some
    known = {
        name: np.asarray(zarr.open_array(str(store / "beams" / name), mode="r")[...])
        for name in ("has_weak_beam", *(n for n in NUMBERS if n in there), *by_mask)
    }
    z = np.asarray(zarr.open_array(str(store / "z"), mode="r")[...])
    done = [int(block[1:].partition("-")[0]) for block in state.done]
    told = []
    none = [k for k in done if not known["has_weak_beam"][k]]
    plain = [k for k in done if by_mask and known["has_weak_beam"][k] and not known["has_defects"][k]]
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


def _masked(store: Path) -> bool:
    """Whether current masks exist with their verdict."""
    state = ledger.states(store, "beams").get("threshold_beams")
    if state is None or not state.complete or "has_defects" not in state.writes:
        return False
    return scan.stale_input(store, state.provenance or {}) is None


def weak_beam_tails(store: str | Path) -> tuple[str, ...]:
    """That a Gram–Schmidt basis is not one of weak and strong beam, or that there is none.

    Returns
    -------
    tuple of str
        Nothing where the store has no such basis, or a sound one.
    """
    if "gram_schmidt" not in _complete_fits(store):
        return ()
    found = _small(store, "gram_schmidt", "basis", "has_tails", "rms_least")
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


def unsettled_fits(store: str | Path) -> tuple[str, ...]:
    """Which fits of components by rounds did not converge, and which found nothing.

    Returns
    -------
    tuple of str
        A sentence for each of pca, nmf and nica to which it applies.
    """
    told = []
    for method in sorted({"pca", "nmf", "nica"} & _complete_fits(store)):
        if not np.isfinite(_small(store, method, "basis")["basis"]).all():
            told.append(_NOT_LIT.format(f"the basis of {method}"))
        elif method != "pca":
            found = _small(store, method, "converged", "rounds", "unexplained", "optimum")
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


def _complete_fits(store: str | Path) -> set[str]:
    """Steps of the group of components that are complete, and not older than what they were made of."""
    if not Path(store, "components").is_dir():
        return set()
    states = ledger.states(store, "components")
    stale = {k for k, (why, _) in scan.incomplete(store, "components", states).items() if "made anew" in why}
    return {step for step, state in states.items() if state.complete} - stale


def _small(store: str | Path, method: str, *names: str) -> dict[str, np.ndarray]:
    """Small variables of a fit, by what follows the method in their names."""
    folder = Path(store, "components")
    return {name: np.asarray(zarr.open_array(str(folder / f"{method}_{name}"), mode="r")[...]) for name in names}
