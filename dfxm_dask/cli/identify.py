"""Commands for the visibility of dislocations in a reflection, and to combine scans of one dislocation."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from dfxm_dask.cli.options import FILE


def read_hkl(_: Any, __: Any, text: str) -> tuple[int, int, int]:
    """``-1,1,-1`` as three indices."""
    try:
        h, k, l = (int(part) for part in text.split(","))  # noqa: E741
    except ValueError:
        raise click.BadParameter(f"{text!r} is not three whole numbers, such as -1,1,-1") from None
    return h, k, l


@click.command()
@click.option("--crystal", default="Al", show_default=True, help="Name of the crystal: Al, Cu or Ni.")
@click.option("--hkl", required=True, callback=read_hkl, help="Reflection, such as -1,1,-1.")
@click.option("--energy", type=click.FloatRange(0, min_open=True), help="Photon energy, keV. [default: microscope]")
@click.option("--microscope", default="id06_al111", show_default=True, help="Microscope with the acceptance.")
@click.option(
    "--angles", default=4, show_default=True, type=click.IntRange(2), help="Line directions in every slip plane."
)
@click.option("--turn", default=0.0, show_default=True, help="Rotation of the crystal about g, degree.")
@click.option(
    "--axis",
    "axes",
    multiple=True,
    default=("phi",),
    show_default=True,
    type=click.Choice(("phi", "chi", "two_theta")),
    help="Axis that the scan moves; once for each. It decides which lines have equal images.",
)
@click.option("--json", "numbers", is_flag=True, help="Print one JSON document.")
def visibility(
    crystal: str,
    hkl: tuple[int, int, int],
    energy: float | None,
    microscope: str,
    angles: int,
    turn: float,
    axes: tuple[str, ...],
    numbers: bool,
) -> None:
    """Show the visibility of dislocations in one reflection.

    It also lists dislocations with equal images, which no data of this reflection can distinguish.

    One number for each scan axis: the rms shift of the centre of mass at 0.3 um from the line, over the standard
    deviation of the curve. Zero along every axis means no contrast. g·b = 0 alone does not hide an edge.
    """
    from dfxm_dask.errors import InputError
    from dfxm_dask.identify.visibility import AXES, visibility_rows
    from dfxm_dask.optics.crystal import bragg_angle, find_crystal
    from dfxm_dask.optics.instrument.microscope import find_microscope
    from dfxm_dask.view.tables import show_table

    known, scope = find_crystal(crystal), find_microscope(microscope)
    if known.structure != "fcc":
        raise InputError(f"crystal {crystal!r}", f"is {known.structure}", "give a face-centred cubic crystal")
    keV = energy or scope.energy
    scope = replace(scope, energy=keV, theta=bragg_angle(known, hkl, keV), eta=0.0)
    cell = {"parameter": 1e-4 * known.cell[0], "poisson": known.poisson}
    rows = visibility_rows("fcc", hkl, scope, angles=angles, turn=math.radians(turn), axes=axes, **cell)
    if numbers:
        click.echo(
            json.dumps({"crystal": crystal, "hkl": list(hkl), "energy_keV": keV, "dislocations": rows}, indent=1)
        )
        return
    shown = [(r["dislocation"], f"{r['g_b']:g}", *(f"{r[axis]:.3g}" for axis in AXES)) for r in rows]
    title = f"visibility of dislocations of {crystal} in {' '.join(map(str, hkl))}"
    show_table(title, ("dislocation", "g·b", *AXES), shown, right=(1, 2, 3, 4))
    alike: dict[object, list[str]] = {}
    for row, numbers_ in zip(rows, shown, strict=True):
        dark = all(float(str(text)) < 1e-9 for text in numbers_[2:])
        alike.setdefault("no contrast" if dark else row["image"], []).append(str(row["dislocation"]))
    hidden = alike.pop("no contrast", [])
    seen = f"{len(rows) - len(hidden)} visible dislocations have {len(alike)} different images"
    click.echo(f"In a scan of {', '.join(axes)}, {seen}.")
    for same in alike.values():
        if len(same) > 1:
            click.echo(f"equal images: {' = '.join(same)}")
    if hidden:
        click.echo(f"no contrast: {', '.join(hidden)}")


@click.command()
@click.argument("stores", type=FILE, nargs=-1, required=True)
@click.option("--top", default=10, show_default=True, type=click.IntRange(1), help="Number of candidates to list.")
@click.option("--json", "numbers", is_flag=True, help="Print one JSON document.")
def identify(stores: tuple[Path, ...], top: int, numbers: bool) -> None:
    """Rank the dislocations that fit several scans.

    Every store has been reduced by the step match, with the same catalogue. The logarithms of their evidence add,
    because candidates have the same number in every reflection.
    """
    import numpy as np

    from dfxm_dask.errors import StoreError
    from dfxm_dask.identify.catalogue import catalogue, names
    from dfxm_dask.identify.combine import combined
    from dfxm_dask.store.scan import open_scan
    from dfxm_dask.view.tables import show_table

    logs: list[np.ndarray] = []
    kinds = set()
    for store in stores:
        tree = open_scan(store)
        if "identify" not in tree or "log_evidence" not in tree["identify"]:
            raise StoreError(f"store {store}", "has no candidates", f"run dfxm-dask run identify {store}")
        flags = tree["identify"]["match_reason"]
        words = zip(flags.attrs["flag_masks"], flags.attrs["flag_meanings"].split(), strict=True)
        lost = [word for mask, word in words if word != "no_dislocation" and (flags.values & mask).any()]
        if lost:
            remedy = "leave it out, or change the parameters of match"
            raise StoreError(f"store {store}", f"has no probabilities ({', '.join(lost)})", remedy)
        logs.append(np.asarray(tree["identify"]["log_evidence"]))
        lattice = tree.attrs.get("lattice", {})
        kinds.add((lattice.get("kind") or "fcc") if isinstance(lattice, dict) else "fcc")
    if len(kinds) > 1:
        found = f"have lattices of the kinds {', '.join(sorted(kinds))}"
        raise StoreError("stores", found, "combine scans of one crystal")
    probability, none = combined(logs)
    kind = kinds.pop()
    known = next(
        (c for a in (36, *range(2, 361, 2)) if len((c := catalogue(kind, angles=a)).angle) == len(logs[0])), None
    )
    name = names(known) if known is not None else [str(k) for k in range(len(logs[0]))]
    order = np.argsort(-probability, kind="stable")[:top]
    if numbers:
        rows = [{"candidate": int(k), "dislocation": name[k], "probability": float(probability[k])} for k in order]
        click.echo(json.dumps({"none_probability": none, "candidates": rows}, indent=1))
        return
    shown = [(str(int(k)), name[k], f"{probability[k]:.4g}") for k in order]
    show_table("candidates", ("number", "dislocation", "probability"), shown, right=(0, 2))
    click.echo(f"no dislocation: {none:.3g}")
