"""What a user should be told of a scan beside its maps: frames that are not on one scale, layers without weak beam."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import zarr

from dfxm_dask.beams.evidence import NUMBERS, reasons
from dfxm_dask.store import ledger, scan

UNEVEN = 1.5
"""Largest over smallest beam among the frames of a layer above which frames are not on one scale. A storage ring loses
a few per cent during a scan, an attenuator takes half and more (our choice)."""

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
    compare = [k for k, (step, group) in enumerate(zip(steps, groups, strict=True))
               if group in WITHIN and step != "normalise"]  # fmt: skip
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
            usual = float(np.nanmedian(known))
            told.append(
                f"the {name} of frames of one layer differs up to {ratio:.3g} times, and no step puts them on one "
                f"scale: put `- normalise: {{by: {name}, reference: {usual:.6g}, offset: DARK}}` first, DARK being the "
                "counts without beam"
            )
    return tuple(told[:1])  # one scale is enough: a monitor counts over the exposure


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
    known = {
        name: np.asarray(zarr.open_array(str(store / "beams" / name), mode="r")[...])
        for name in ("has_weak_beam", "has_defects", *NUMBERS)
    }
    z = np.asarray(zarr.open_array(str(store / "z"), mode="r")[...])
    done = [int(block[1:].partition("-")[0]) for block in state.done]
    told = []
    none = [k for k in done if not known["has_weak_beam"][k]]
    plain = [k for k in done if known["has_weak_beam"][k] and not known["has_defects"][k]]
    for what, bad in (
        ("have no weak beam: there are no weak-beam images of them (unless integrate_beams: {insist: true})", none),
        ("have a weak beam in which nothing stands out", plain),
    ):
        if bad:
            some = ", ".join(f"{z[k]:g}" for k in bad[:5]) + (", ..." if len(bad) > 5 else "")
            first = bad[len(bad) // 2]
            why = reasons(*(float(known[n][first]) for n in NUMBERS))
            told.append(f"{len(bad)} of {len(done)} layers {what} (z = {some}); at z = {z[first]:g}: {'; '.join(why)}")
    return tuple(told)
