"""Truth of a phantom: boundaries, lines, and moving dislocations, as small labelled tables."""

from __future__ import annotations

from typing import Any

import numpy as np

from dfxm_dask.optics.defects.scene import line_points
from dfxm_dask.optics.defects.subgrains import Boundary
from dfxm_dask.phantoms.phantom import Phantom, coordinates
from dfxm_dask.phantoms.render import MEANINGS, exposures

POINT_STEP = 0.25  # um between points of one line
Table = dict[str, tuple[tuple[str, ...], np.ndarray, dict[str, Any]]]


def tables(phantom: Phantom) -> Table:
    """Small variables of the truth: name → (dims, values, attributes).

    Returns
    -------
    dict
        ``normal``, ``line``, ``burgers`` (boundary, xyz), ``origin`` um, ``spacing`` um, ``misorientation`` rad and
        ``dihedral`` degree (from this half plane to the next one about their junction; NaN for a full plane) of every
        boundary, by its densest set of lines; all sets as ``set_boundary``, ``set_burgers``, ``set_line``,
        ``set_spacing``; points on the lines as ``line_point (point, xyz)`` um with ``line_number (point)``, which
        counts ``dislocation_burgers`` and ``dislocation_line (dislocation, xyz)``; ``position (time, dislocation,
        yx)`` um of a movie, NaN for a dislocation outside the frame; ``drift (z, scan axes, yx)`` um of the images;
        ``illumination (z, scan axes, y)`` of a beam that moves or flickers; ``shift (yx)`` um of the sample along its
        own axes, where the axes of the store are those of the laboratory. Axes x, y, z are those of the store. Signs
        of Burgers vector and line are those of a right-handed circuit; the pair reversed is the same dislocation.
    """
    out: Table = {}
    if phantom.lighting.drift:
        moved = np.stack([exposures(phantom, k)["drift"] for k in range(len(phantom.z))])
        moved = moved.reshape(len(phantom.z), *phantom.grid, 2) * phantom.pixel
        dims = ("z", *(a.name for a in phantom.axes), "yx")
        out["drift"] = (dims, moved, _attrs("um", "displacement of the image of a frame, not applied to the truth"))
    if phantom.lighting.flicker or phantom.lighting.beam:
        series = [exposures(phantom, k) for k in range(len(phantom.z))]
        bright = np.stack([one["rows"] * one["flux"][:, None] for one in series])
        dims = ("z", *(a.name for a in phantom.axes), "y")
        bright = bright.reshape(len(phantom.z), *phantom.grid, phantom.shape[0])
        out["illumination"] = (dims, bright, _attrs("1", "relative brightness of the beam on a row of a frame"))
    if phantom.placement is not None:
        words = "displacement of the sample along its own axes (y, x)"
        out["shift"] = (("yx",), np.asarray(phantom.placement.shift, float), _attrs("um", words))
    if phantom.boundaries:
        out |= _boundaries(phantom.boundaries)
    if phantom.motion is not None:
        position = phantom.motion.position
        if phantom.motion.passing:
            last = [c[-1] for c in coordinates(phantom)]
            inside = ((position >= 0) & (position <= last)).all(-1, keepdims=True)
            position = np.where(inside, position, np.nan)
        words = "position at which the dislocation crosses the layer"
        out["position"] = (("time", "dislocation", "yx"), position, _attrs("um", words))
        return out
    y, x = coordinates(phantom)
    low = np.array([x[0], y[0], phantom.z[0]])
    high = np.array([x[-1], y[-1], phantom.z[-1]])
    half = max(0.5, *(np.diff(phantom.z) / 2)) if len(phantom.z) > 1 else 0.5
    box = np.stack([low - [0, 0, half], high + [0, 0, half]])
    points, numbers = line_points(phantom.scene, box, POINT_STEP)
    out["line_point"] = (("point", "xyz"), points, _attrs("um", "position of a point on a dislocation line"))
    out["line_number"] = (("point",), numbers, _attrs("1", "number of the dislocation of a point"))
    every = phantom.scene.lines
    burgers = [*every["burgers"], *(loop.burgers for loop in phantom.scene.loops)]
    directions = [*every["line"], *(np.full(3, np.nan) for _ in phantom.scene.loops)]
    pair = ("dislocation", "xyz")
    out["dislocation_burgers"] = (pair, np.reshape(burgers, (-1, 3)), _attrs("um", "Burgers vector of the dislocation"))
    out["dislocation_line"] = (
        pair,
        np.reshape(directions, (-1, 3)),
        _attrs("1", "line direction of the dislocation; NaN for a loop"),
    )
    return out


def _attrs(units: str, name: str) -> dict[str, Any]:
    return {"units": units, "long_name": name}


def _boundaries(boundaries: tuple[Boundary, ...]) -> Table:
    def each(values: list[Any], units: str, name: str, dims: tuple[str, ...] = ("boundary",)) -> Any:
        return dims, np.asarray(values, float), _attrs(units, name)

    vector = ("boundary", "xyz")
    sets = [(k, i) for k, b in enumerate(boundaries) for i in range(len(b.spacing))]
    return {
        "normal": each([b.normal for b in boundaries], "1", "unit normal of the boundary", vector),
        "origin": each(
            [b.origin for b in boundaries], "um", "point of the boundary plane, on the junction of a half plane", vector
        ),
        "line": each([b.line[0] for b in boundaries], "1", "line direction of the densest set of dislocations", vector),
        "burgers": each(
            [b.burgers[0] for b in boundaries], "um", "Burgers vector of the densest set of dislocations", vector
        ),
        "spacing": each([b.spacing[0] for b in boundaries], "um", "spacing of the densest set of dislocations"),
        "misorientation": each(
            [np.linalg.norm(b.jump) for b in boundaries], "rad", "misorientation angle between the subgrains"
        ),
        "axis": each(
            [b.jump / np.linalg.norm(b.jump) for b in boundaries], "1", "rotation axis of the boundary", vector
        ),
        "dihedral": each(_dihedrals(boundaries), "degree", "dihedral angle to the next half plane of the junction"),
        "twist": (
            ("boundary",),
            np.array([b.kind == "twist" for b in boundaries]),
            _attrs("1", "whether the boundary is a twist boundary"),
        ),
        "set_boundary": (
            ("set",),
            np.array([k for k, _ in sets], np.int32),
            _attrs("1", "number of the boundary of a set of dislocations"),
        ),
        "set_burgers": each(
            [boundaries[k].burgers[i] for k, i in sets], "um", "Burgers vector of a set of dislocations", ("set", "xyz")
        ),
        "set_line": each(
            [boundaries[k].line[i] for k, i in sets], "1", "line direction of a set of dislocations", ("set", "xyz")
        ),
        "set_spacing": each(
            [boundaries[k].spacing[i] for k, i in sets], "um", "spacing of a set of dislocations", ("set",)
        ),
    }


def _dihedrals(boundaries: tuple[Boundary, ...]) -> list[float]:
    """Angle from each half plane to the next one with the same junction; half planes of a junction are in order."""
    out = []
    for boundary in boundaries:
        ring = [b for b in boundaries if b.along is not None and np.array_equal(b.origin, boundary.origin)]
        if boundary.along is None:
            out.append(np.nan)
            continue
        following = ring[(next(k for k, b in enumerate(ring) if b is boundary) + 1) % len(ring)]
        assert following.along is not None
        turn = np.arctan2(
            np.cross(boundary.along, following.along) @ boundary.line[0], boundary.along @ following.along
        )
        out.append(float(np.rad2deg(turn % (2 * np.pi))))
    return out


FLAGS = {"flag_values": list(range(len(MEANINGS))), "flag_meanings": " ".join(MEANINGS)}
