"""The effective pixel and the crystal of a store, set or changed without the raw data.

A calibration rewrites the positions and invalidates the steps that depend on them.

Positions along y and x, their digests and the invalidated steps are many files, and only one file at a time can be
replaced atomically. The plan of the change is therefore written first, as one file. From then on the change is decided:
if the process is killed, the next process that opens the store finishes the change. While y and x are rewritten they
have no metadata, so that no reader finds one of them in um and the other in pixels.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from dfxm_dask.errors import DfxmError, InputError, LockedError, StoreError
from dfxm_dask.schema import migrate
from dfxm_dask.store.create import check_pixel_size, pixel_attrs, pixel_positions
from dfxm_dask.store.crystal import WORDS, checked_crystal
from dfxm_dask.store.integrity import ledger, nodes
from dfxm_dask.store.integrity.lock import own_store
from dfxm_dask.store.integrity.opened import open_store
from dfxm_dask.store.lengths import (
    AXES,
    Pixel,
    axis_attributes,
    computed_pixel,
    pixel_of,
    recorded_camera,
    same,
    steps_by_lengths,
    words,
)
from dfxm_dask.store.metadata import DISTRUST, LONGEST_AXIS, read_node
from dfxm_dask.store.shards import force

PENDING = ".calibration.json"
"""Plan of an unfinished change of the pixel size; exists only during a calibration."""


@dataclass(frozen=True)
class CalibrateReport:
    """Result of a calibration, or of a dry run; steps are named "group/step".

    Pixel sizes are ``None`` where y and x count pixels. ``crystal`` is the crystal that the store records.
    """

    pixel_size: Pixel | None
    before: Pixel | None
    source: str
    changed: bool
    withdrawn: tuple[str, ...]
    kept: tuple[str, ...]
    crystal: Mapping[str, Any] = field(default_factory=dict)


def calibrate(
    store: str | os.PathLike[str],
    pixel_size: Pixel | None = None,
    *,
    camera_pixel: float | None = None,
    magnification: float | None = None,
    two_theta: float | None = None,
    detector: Literal["vertical", "normal"] = "vertical",
    stretched: Literal["y", "x"] | None = None,
    lattice: Mapping[str, Any] | None = None,
    hkl: Sequence[int] | None = None,
    goniometer: Mapping[str, float] | None = None,
    energy: float | None = None,
    frame: Literal["laboratory", "sample"] | None = None,
    rotation_axis: tuple[float, float] | None = None,
    dry_run: bool = False,
) -> CalibrateReport:
    """Set the effective pixel and the crystal of a store, without reading the raw data again.

    The positions along y and x are rewritten in um. Steps that do not depend on lengths are kept. Steps that depend on
    lengths are invalidated, with all results derived from them: the next run recomputes them. An unchanged pixel size
    changes nothing. A killed calibration is finished when the store is next opened. The next run recomputes the steps
    that use the crystal.

    Parameters
    ----------
    store : path
    pixel_size : (y, x), um, optional
        Effective pixel in the object. By default computed from the next four parameters.
    camera_pixel : float, um, optional
        Edge of a physical camera pixel; by default as recorded at ingest. A recorded binning multiplies the edge.
    magnification : float, optional
        Magnification from the object to the camera: X-ray objective times optics behind the scintillator.
    two_theta : float, degree, optional
        Scattering angle; by default the arm of the objective recorded at ingest, or the mean of a scanned angle.
    detector : "vertical" or "normal"
        Parallel to the lab yz plane, or normal to the diffracted beam: see
        :func:`dfxm_dask.optics.geometry.effective_pixel`.
    stretched : "x" or "y", optional
        Dim along which the layer is imaged obliquely; by default the dim in the scattering plane according to the
        beamline configuration of the ingest, else x.
    lattice : mapping, optional
        Crystal and its orientation: see :class:`dfxm_dask.optics.defects.lattice.Lattice`.
    hkl : (int, int, int), optional
        Measured reflection.
    goniometer : mapping of str to float, degree, optional
        Setting of the reflection, for :func:`dfxm_dask.join`: any of ``mu``, ``omega``, ``eta`` and ``theta``. Other
        recorded motors stay.
    energy : float, keV, optional
        Photon energy.
    frame : "laboratory" or "sample", optional
        Axes along which the pixels lie: those of the laboratory, in which omega turns the sample, or of the sample.
    rotation_axis : (float, float), um, optional
        Position of the rotation axis of omega along y and x of the store.
    dry_run : bool
        Report the changes without making them.

    Returns
    -------
    CalibrateReport

    Raises
    ------
    InputError
        An invalid pixel size, magnification, angle, crystal or setting; a length that is neither given nor recorded.
    StoreError
        Not an ingested store, a set of reflections, or a simulated store with a different pixel.
    RecipeError
        A step comes from a plug-in that is not loaded, so that its dependence on lengths is unknown.
    LockedError
        A run or ingest is writing the store.

    Examples
    --------
    >>> report = dfxm_dask.calibrate("scan.zarr", (0.12, 0.04))    # doctest: +SKIP
    >>> report.withdrawn                                           # doctest: +SKIP
    ('rocking/kam',)
    """
    store = Path(store).resolve()
    recover(store)
    migrate(open_store(store).nodes[""]["attributes"])
    header = ledger.read_header(ledger.ledger_path(store, "raw", "ingest"))
    if not header:
        raise StoreError(f"store {store}", "has no ingested raw data", "give a store written by dfxm-dask ingest")
    if "grid" in header["plan"]:
        raise StoreError(
            f"store {store}",
            "is a set of reflections on a grid of its own",
            "calibrate the stores of the reflections, then run dfxm-dask join again with --overwrite",
        )
    computed = (camera_pixel, magnification, two_theta)
    camera = recorded_camera(store)
    attributes = open_store(store).nodes[""]["attributes"]
    setting: dict[str, Any] = {
        "goniometer": goniometer,
        "energy": energy,
        "frame": frame,
        "rotation_axis": rotation_axis,
    }
    crystal = checked_crystal(lattice, hkl, attributes, **setting)
    before = pixel_of(store)
    wanted: Pixel | None
    told = any(value is not None for value in (lattice, hkl, *setting.values()))
    if pixel_size is None and told and not any(v is not None for v in computed):
        wanted, source = before, str(axis_attributes(store)["y"].get("pixel_size_source", "as before"))
    elif pixel_size is None:
        wanted, source = computed_pixel(store, camera, *computed, detector, stretched)
        check_pixel_size(wanted, camera)
    elif any(value is not None for value in computed):
        raise InputError(
            "calibrate", "has both a pixel size and values to compute the pixel size from", "give one of the two"
        )
    else:
        wanted, source = check_pixel_size(pixel_size, camera), "given"
    moved = wanted is not None and not (before is not None and same(before, wanted))
    turned = any(attributes.get(word) != crystal.get(word) for word in WORDS)
    if not moved and not turned:
        source = str(axis_attributes(store)["y"].get("pixel_size_source", "given"))
        return CalibrateReport(before, before, source, False, (), (), crystal)
    if moved and "phantom" in header["plan"]:
        raise StoreError(
            f"store {store}",
            f"is simulated, with its truth, for pixels of {words(before)}, not {words(wanted)}",
            "simulate a scan with this pixel size",
        )

    def report() -> CalibrateReport:
        withdrawn, kept = steps_by_lengths(store)
        if not moved:
            withdrawn, kept = (), tuple(sorted((*withdrawn, *kept)))
        return CalibrateReport(wanted if moved else before, before, source, True, withdrawn, kept, crystal)

    made = report()
    if not dry_run:
        with own_store(store, f"calibration of {store}"):
            made = report()  # as no run is at work any more
            _decide(store, header, wanted if moved else None, source, made.withdrawn, crystal)
            finish(store)
    return made


def samples_moved(store: Path, reduction: Any) -> bool:
    """Whether a reduction may have sampled different pixels before a calibration than after it.

    Fits of components choose their sample by positions, in any unit: after a calibration the sample is different,
    though equally valid.
    """
    begun = ledger.read_header(ledger.ledger_path(store, "raw", "ingest")).get("plan", {})
    if "phantom" in begun or not any(v.name in AXES and not v.units for v in reduction.may_read):
        return False
    first, now = begun.get("pixel_size"), pixel_of(store)
    return now is not None and (first is None or not same((first[0], first[1]), now))


def _decide(
    store: Path,
    header: Mapping[str, Any],
    pixel: Pixel | None,
    source: str,
    withdrawn: tuple[str, ...],
    crystal: Mapping[str, Any],
) -> None:
    """Write the plan of the change, which from now on is binding."""
    roi = header["plan"].get("roi") or (0, 0, 0, 0)
    coordinates = {}
    for name, start, size in zip(AXES, (roi[0], roi[2]), pixel, strict=True) if pixel is not None else ():
        node = read_node(store / name)
        attrs = {**node["attributes"], **pixel_attrs(size, source)}
        coordinates[name] = {"count": node["shape"][0], "start": start, "pixel": size, "attrs": attrs}
    todo = {"coordinates": coordinates, "withdrawn": list(withdrawn), "crystal": dict(crystal)}
    ledger.replace_file(store / PENDING, json.dumps(todo).encode())


def recover(store: str | Path) -> None:
    """Finish a killed calibration; other stores are left unchanged.

    Raises
    ------
    LockedError
        Another process is writing the store.
    StoreError
        The store cannot be written, or the plan is invalid.
    """
    store = Path(store)
    if not os.path.lexists(store / PENDING):
        return
    try:
        with own_store(store.resolve(), f"calibration of {store}"):
            finish(store.resolve())
    except LockedError:
        raise
    except (DfxmError, OSError) as error:
        reason = error.found if isinstance(error, DfxmError) else error.strerror
        raise StoreError(
            f"store {store}",
            f"has an interrupted calibration that cannot be finished here ({reason})",
            f"run dfxm-dask info {store} on a machine that can write the store",
        ) from None


def finish(store: Path) -> None:
    """Finish the changes that :data:`PENDING` lists, from where they were interrupted; only for the lock owner.

    Raises
    ------
    StoreError
        The plan is invalid.
    """
    path = store / PENDING
    if not os.path.lexists(path):
        return
    coordinates, withdrawn, crystal = _pending(path)
    root = read_node(store)
    attributes = {name: value for name, value in root["attributes"].items() if name not in WORDS} | crystal
    if root.pop("consolidated_metadata", None) is not None or attributes != root["attributes"]:
        # Other readers use the metadata in the root first.
        ledger.replace_file(store / "zarr.json", json.dumps({**root, "attributes": attributes}).encode())
    for group, step in withdrawn:
        _withdraw(store, group, step)
    for name in coordinates:
        (store / name / "zarr.json").unlink(missing_ok=True)
        for repeated in store.glob(f"*/{name}"):
            nodes.remove_repeated(store, repeated.parent.name, [name])
    for name, to in coordinates.items():
        nodes.write_small(store, "", name, (name,), pixel_positions(to["count"], to["start"], to["pixel"]), to["attrs"])
    files = [
        str(p.relative_to(store)) for name in coordinates for p in sorted((store / name).rglob("*")) if p.is_file()
    ]
    ledger.sync_files(store, files)
    _vouch(store, files, [coordinates[name]["pixel"] for name in coordinates], crystal)
    nodes.consolidate(store)
    path.unlink()
    force(str(store))


def _pending(path: Path) -> tuple[dict[str, dict[str, Any]], list[tuple[str, str]], dict[str, Any]]:
    """The checked content of the file, which may come from an untrusted source, like all of a store."""
    try:
        if path.is_symlink() or path.stat().st_size > 1 << 20:
            raise ValueError("a link, or too large")
        found = json.loads(path.read_bytes())
        coordinates = {name: found["coordinates"][name] for name in AXES if found["coordinates"]}
        for to in coordinates.values():
            check_pixel_size((to["pixel"], to["pixel"]))
            if type(to["count"]) is not int or not 0 < to["count"] <= LONGEST_AXIS or type(to["start"]) is not int:
                raise ValueError("no positions")
            if not isinstance(to["attrs"], dict):
                raise ValueError("no attributes")
        withdrawn = [(group, step) for group, _, step in (str(key).partition("/") for key in found["withdrawn"])]
        if not all(word.isidentifier() for pair in withdrawn for word in pair):
            raise ValueError("a step of no name")
        crystal = checked_crystal(**found.get("crystal", {}))  # absent where an earlier version was killed
        if not coordinates and not crystal:
            raise ValueError("nothing to do")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StoreError(f"file {path}", f"is not a calibration ({error})", DISTRUST) from None
    return coordinates, withdrawn, crystal


def _withdraw(store: Path, group: str, step: str) -> None:
    """Remove a step with its arrays and summaries; its ledger, which names them, goes last."""
    if (store / group).is_symlink():
        raise StoreError(f"group {store / group}", "is a link", DISTRUST)
    path = ledger.ledger_path(store, group, step)
    header = ledger.read_header(path)
    for name in header.get("plan", {}).get("writes", ()):
        if not name.isidentifier():
            raise StoreError(f"ledger {path}", f"names an array {name!r}", DISTRUST)
        shutil.rmtree(store / group / name, ignore_errors=True)
    for summary in path.parent.glob(f"{step}.*.npz"):
        summary.unlink()
    ledger.withdraw(store, group, step)
    if not any(path.parent.glob("*.jsonl")) and not nodes.arrays(store, group):  # a group without steps is removed
        nodes.remove_repeated(store, group)
        (store / group / "zarr.json").unlink(missing_ok=True)
        for folder in (path.parent, store / group):
            with suppress(OSError):  # not empty
                folder.rmdir()


def _vouch(store: Path, files: list[str], pixel: list[float], crystal: Mapping[str, Any]) -> None:
    """Record the digests of the new positions and attributes, the pixel size and the crystal in the provenance.

    An unfinished ingest has no provenance yet; its completion records them.
    """
    root = ledger.digest(read_node(store)["attributes"])
    for group in ("truth", "raw"):
        _, provenance = ledger.group_provenance(store, group) if (store / group).is_dir() else ({}, {})
        for step, made in provenance.items():
            if "root" in made:
                made["root"] = root
            kept = {name: value for name, value in made["parameters"].items() if name not in WORDS}
            made["parameters"] = {**kept, **crystal}
            if step == "ingest" and pixel:
                made["parameters"]["pixel_size"] = pixel
                digests = {name: [(store / name).stat().st_size, ledger.file_digest(store / name)] for name in files}
                made["small_files"] |= digests
            ledger.append(ledger.ledger_path(store, group, step), {"completed": ledger.digest(made)})
        if provenance:
            ledger.write_provenance(store, group, provenance)


def resumed(store: Path, asked: Pixel | None) -> tuple[Any, Pixel | None]:
    """Plan and pixel size of a resumed ingest: the store may have been calibrated since the ingest began.

    Returns
    -------
    (pixel size in the plan of the interrupted ingest, effective pixel of the store); ``asked`` twice for a new store.

    Raises
    ------
    StoreError
        The given pixel size differs from that of the store.
    """
    header = ledger.read_header(ledger.ledger_path(store, "raw", "ingest"))
    if not header or "phantom" in header["plan"]:
        return asked, asked
    has = pixel_of(store)
    if asked is not None and (has is None or not same(has, asked)):
        said = f"has pixels of {words(has)}, not {words(asked)}"
        size = ",".join(f"{length:g}" for length in asked)
        raise StoreError(f"store {store}", said, f"run dfxm-dask calibrate {store} --pixel-size {size}")
    return header["plan"].get("pixel_size"), has
