"""The walls of the published aluminium volume, from blurred points on the lines of the simulator and outliers."""

from __future__ import annotations

import numpy as np
import pytest

from dfxm_dask.boundaries.lines.projected_lines import line_families
from dfxm_dask.boundaries.planes.mixture import probabilities
from dfxm_dask.boundaries.planes.plane_search import find_planes
from dfxm_dask.boundaries.vectors.burgers import burgers_of_wall
from dfxm_dask.optics.defects.scene import line_points
from dfxm_dask.phantoms import presets

FCC = ((1, 1, 0), (1, -1, 0), (1, 0, 1), (1, 0, -1), (0, 1, 1), (0, 1, -1))


def angle(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.rad2deg(np.arctan2(np.linalg.norm(np.cross(a, b)), abs(a @ b))))


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_walls__of_al002_have_their_planes_lines_and_burgers_vectors(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """64 x 64 x 101 um, lines blurred by 0.35 um, a fifth of all points outliers; all of 20 seeds are right."""
    seen: list[presets.Frame] = []
    made = presets.frame
    monkeypatch.setattr(presets, "frame", lambda *a, **k: seen.append(made(*a, **k)) or seen[0])
    phantom = presets.build("al002", layers=102, shape=(1600, 610), seed=seed)[0]
    candidates = np.array([seen[0].burgers(*b) for b in FCC])
    low = np.array([0.0, 0.0, phantom.z[0]])
    high = np.array(
        [(phantom.shape[1] - 1) * phantom.pixel[1], (phantom.shape[0] - 1) * phantom.pixel[0], phantom.z[-1]]
    )
    rng = np.random.default_rng(seed)
    points, _ = line_points(phantom.scene, np.stack([low, high]), 0.2)
    points = points + rng.normal(0, 0.35, points.shape)
    points = np.concatenate([points, rng.uniform(low, high, (len(points) // 4, 3))])
    model = find_planes(points, seed=seed)
    shares = probabilities(points, model)
    assert len(model.planes.sigma) == len(phantom.boundaries) == 4
    for true in phantom.boundaries:
        k = int(
            np.argmin(
                [
                    angle(n, true.normal) + abs((o - true.origin) @ true.normal)
                    for n, o in zip(model.planes.normal, model.planes.origin, strict=True)
                ]
            )
        )
        assert angle(model.planes.normal[k], true.normal) < 0.3
        mine = shares[:, k] > 0
        families = line_families(points[mine], shares[mine, k], model.planes.normal[k], seed=seed)
        assert len(families.spacing) == len(true.spacing)
        found = burgers_of_wall(model.planes.normal[k], families.line, families.spacing, candidates)
        for line, spacing, burgers in zip(families.line, families.spacing, found.burgers[0], strict=True):
            j = int(np.argmin([angle(line, one) for one in true.line]))
            assert angle(line, true.line[j]) < 0.3
            assert spacing == pytest.approx(true.spacing[j], rel=0.02)
            assert angle(burgers, true.burgers[j]) < 1e-3
        assert found.twist[0] == pytest.approx(float(true.kind == "twist"), abs=0.05)
        assert np.linalg.norm(found.rotation[0]) == pytest.approx(np.linalg.norm(true.jump), rel=0.02)
