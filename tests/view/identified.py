"""A store with the table of candidates of one dislocation, in memory."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

CELL = 4.05e-4
SINE = np.sqrt(3) * 0.72932e-4 / (2 * CELL)  # of the Bragg angle of 111 at 17 keV
G, ACROSS = np.array([1.0, -1, 1]) / np.sqrt(3), np.array([1.0, 1, 0]) / np.sqrt(2)
Z, X = np.sqrt(1 - SINE**2) * G + SINE * ACROSS, np.sqrt(1 - SINE**2) * ACROSS - SINE * G
TURN = np.stack([X, np.cross(Z, X), Z])
"""Crystal directions along x, y, z of the store: g leans from z towards -x."""
LATTICE = {"kind": "fcc", "parameter": CELL, "x": X.tolist(), "z": Z.tolist()}


def candidates(none: float = 0.01) -> xr.DataTree:
    """Straight dislocations on {111}<110> with lines every 30 degree; the first is the most probable."""
    rows = []
    for n in ([1, 1, 1], [1, 1, -1], [1, -1, 1], [-1, 1, 1]):
        normal = np.array(n) / np.sqrt(3)
        for b in ([1, -1, 0], [1, 0, -1], [0, 1, -1], [1, 1, 0], [1, 0, 1], [0, 1, 1]):
            if np.dot(n, b) == 0:
                along = np.array(b) / np.sqrt(2)
                for angle in np.deg2rad(30 * np.arange(12)):
                    rows.append(
                        (np.array(b) / 2, np.cos(angle) * along + np.sin(angle) * np.cross(normal, along), normal)
                    )
    burgers, line, normal = (np.array(column) @ TURN.T for column in zip(*rows, strict=True))
    tensors = burgers[:, :, None] * line[:, None]
    logs = -2.5 * np.minimum(*(np.linalg.norm(tensors - s * tensors[2], axis=(1, 2)) for s in (1, -1))) ** 2 / 0.2**2
    logs -= 2.5 * ((burgers @ burgers[2] * (line @ line[2])) < 0)
    probability = (1 - none) * np.exp(logs) / np.exp(logs).sum()
    table = {
        "burgers": (("candidate", "xyz"), CELL * burgers, {"units": "um"}),
        "line": (("candidate", "xyz"), line),
        "plane_normal": (("candidate", "xyz"), normal),
        "probability": ("candidate", probability),
        "log_evidence": ("candidate", logs),
        "candidate_class": ("candidate", (logs < -2).astype(int)),
        "opposite": ("candidate", np.arange(144) // 12 * 12 + (np.arange(144) + 6) % 12),
        "none_probability": ("answer", [none]),
        "class_probability": ("answer", [probability[logs >= -2].sum()]),
        "match_reason": (
            "answer",
            np.array([0], np.uint16),
            {"flag_masks": [1, 2], "flag_meanings": "no_frames misfit"},
        ),
    }
    coords = {name: (name, np.arange(4.0), {"units": "um"}) for name in ("z", "y", "x")}
    root = xr.Dataset(
        coords=coords, attrs={"title": "one dislocation", "lattice": json.dumps(LATTICE), "hkl": [1, -1, 1]}
    )
    return xr.DataTree.from_dict({"/": root, "/identify": xr.Dataset(table)})
