"""A phantom as a scan: described as one that was read, and as lazy arrays without any file."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from dfxm_dask import __version__
from dfxm_dask.phantoms.phantom import Phantom, fingerprint
from dfxm_dask.phantoms.render import LABEL, exposures, layer_truth, render, truth_variables
from dfxm_dask.phantoms.strong_lattice import Lattices, lattices
from dfxm_dask.phantoms.truth import FLAGS, tables
from dfxm_dask.schema import COUNTS, EXPOSURE, MONITOR, PATCH, expand
from dfxm_dask.sources.source import Axis, Scan
from dfxm_dask.store.integrity import ledger

if TYPE_CHECKING:
    import xarray as xr

DETECTOR = "pco_ff"


def simulated_scan(phantom: Phantom, layer: int) -> Scan:
    """Description of one layer as a beamline would record it, without pixels."""
    recorded = exposures(phantom, layer)
    frames = prod(phantom.grid)
    grids = np.meshgrid(*(np.asarray(a.positions) for a in phantom.axes), indexing="ij")
    axes = []
    for a, grid in zip(phantom.axes, grids, strict=True):
        positions = np.asarray(a.positions)
        step = float(positions[1] - positions[0]) if positions.size > 1 else None
        axes.append(Axis(a.name, a.motor, positions, a.units, float(positions[0]), step, grid.ravel()))
    return Scan(
        source=f"{phantom.name} {phantom.reflection} seed {phantom.seed}",
        entry=f"{layer + 1}.1",
        title=_title(phantom),
        axes=tuple(axes),
        order=np.arange(frames),
        frame_shape=phantom.shape,
        dtype=np.dtype("uint16"),
        pieces=(),
        detector=DETECTOR,
        z=phantom.z[layer],
        z_motor="samz",
        z_units="um",
        monitor=recorded["monitor"],
        exposure=recorded["exposure"],
        commanded=frames,
        found=frames,
    )


def _title(phantom: Phantom) -> str:
    held = [f"{name} held {np.rad2deg(angle):.4f} degree from the peak" for name, angle in phantom.held.items()]
    return ": ".join([f"simulated {phantom.name}", *held])


def identity(phantom: Phantom) -> dict[str, Any]:
    """Origin of a simulated scan: the phantom, and the versions of the packages that draw its noise."""
    words = {"preset": phantom.name, "seed": phantom.seed, "version": __version__, "numpy": np.__version__}
    return {**words, "content": ledger.digest(fingerprint(phantom))}


def lazy_scan(phantom: Phantom) -> xr.DataTree:
    """A simulated scan as lazy arrays: one task renders a layer, and every array of the layer is a part of that task.

    Returns
    -------
    xarray.DataTree
        Groups ``raw`` (counts, monitor, exposure) and ``truth``, as :func:`dfxm_dask.open_scan` gives them.
    """
    import xarray as xr

    from dfxm_dask.engine.graph import layered

    names = {a.name: a.units for a in phantom.axes}
    sizes = {"z": len(phantom.z), **dict(zip(names, phantom.grid, strict=True))}
    sizes |= {"y": phantom.shape[0], "x": phantom.shape[1], "i": 3, "j": 3}
    sizes |= {f"patch_{d}": -(-sizes[d] // PATCH) for d in ("y", "x")}
    truth = [v for declared in truth_variables(phantom) for v in expand(declared, names)]
    every = [*expand(COUNTS, names), *truth]
    lazy = layered(rendered_layer, phantom, every, sizes, f"{phantom.name}-{ledger.digest(identity(phantom))[:16]}")
    coords: dict[str, Any] = {}
    scans = [simulated_scan(phantom, k) for k in range(len(phantom.z))]
    coords["z"] = ("z", np.asarray(phantom.z), {"units": "um", "long_name": "position along z", "motor": "samz"})
    for name, n, pitch in zip(("y", "x"), phantom.shape, phantom.pixel, strict=True):
        coords[name] = (name, np.arange(n) * pitch, {"units": "um", "long_name": f"position along {name}"})
    for k, a in enumerate(phantom.axes):
        attrs = {"units": a.units, "long_name": f"{a.name} ({a.motor})", "motor": a.motor, "scan_axis": k}
        coords[a.name] = (a.name, np.asarray(a.positions), attrs)
    raw: dict[str, Any] = {"counts": lazy["counts"]}
    for variable in (MONITOR, EXPOSURE):
        values = np.stack([getattr(s, variable.name) for s in scans]).reshape(len(scans), *phantom.grid)
        raw[variable.name] = (("z", *names), values, {**variable.attrs, "units": variable.units or "count"})
    known = {v.name: lazy[v.name].assign_attrs(FLAGS if v.name == LABEL.name else {}) for v in truth}
    small = tables(phantom)
    return xr.DataTree.from_dict(
        {
            "/": xr.Dataset(coords=coords),
            "/raw": xr.Dataset(raw),
            "/truth": xr.Dataset({**known, **small}),
        }
    )


def rendered_layer(phantom: Phantom, z: int) -> dict[str, np.ndarray]:
    """Counts and truth of one layer in memory, scan axes first."""
    frames, patches = [], []
    made = layer_lattices(phantom, z)
    for frame, truth in render(phantom, z, made):
        frames.append(frame)
        patches.append(truth)
    out = {name: np.stack([p[name] for p in patches]) for name in patches[0]}
    out["counts"] = np.stack(frames)
    out = {name: values.reshape(*phantom.grid, *values.shape[1:]) for name, values in out.items()}
    return out | layer_truth(phantom, z, made)


def layer_lattices(phantom: Phantom, z: int) -> Lattices | None:
    """Lattices of a layer, computed once for its frames and its truth; None in a movie, whose frames differ."""
    return lattices(phantom, z) if phantom.still else None
