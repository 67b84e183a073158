"""Visibility and equal images of dislocations, against rendered images without noise."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.stats import spearmanr

from dfxm_dask.errors import InputError
from dfxm_dask.identify.catalogue import catalogue
from dfxm_dask.identify.equivalence import equivalent
from dfxm_dask.identify.visibility import AXES, visibility
from dfxm_dask.optics.defects.dislocation import lines
from dfxm_dask.optics.defects.scene import Scene
from dfxm_dask.optics.forward import image_stack
from dfxm_dask.optics.geometry import orientation, rotation_y, rotation_z
from dfxm_dask.optics.instrument.microscope import find_microscope

SCOPE = replace(find_microscope("id06_al111"), sheet=0.2 / 2.355)
CELL, HKL, TURN = 4.0495e-4, (-1, 1, -1), 0.7
GRAIN = rotation_y(-SCOPE.theta) @ rotation_z(TURN) @ orientation(HKL)
SOME = catalogue(angles=8)
SOME = SOME.take(np.flatnonzero(np.isin(SOME.angle, (0.0, 45.0, 90.0))))
STEPS = {"phi": np.arange(-6, 7) * 5.5e-5, "chi": np.arange(-6, 7) * 6e-4, "two_theta": np.arange(-6, 7) * 6e-4}
Y, X = 0.08 * np.arange(-38, 39), 0.247 * np.arange(-13, 14)


def rendered(k: int, axis: str, candidates=SOME) -> np.ndarray:
    burgers, line = CELL * GRAIN @ candidates.burgers[k], GRAIN @ candidates.line[k]
    scene = Scene(0.334, lines=lines([0.021, 0.013, 0], burgers, line, 1e-3))
    return image_stack(scene, SCOPE, {axis: STEPS[axis]}, Y, X, nodes=5).astype(float)


def test_visibility__ranks_dislocations_as_their_images_do() -> None:
    seen = visibility(SOME, HKL, SCOPE, parameter=CELL, radius=0.9, turn=TURN).visibility
    gx, gy = np.meshgrid(X - 0.021, Y - 0.013)
    hidden = (np.abs(SOME.burgers @ HKL) < 1e-9) & (np.linalg.norm(np.cross(SOME.burgers, SOME.line), axis=1) < 1e-9)
    assert hidden.sum() == 3
    for n, axis in enumerate(AXES):
        perfect = image_stack(Scene(0.334), SCOPE, {axis: STEPS[axis]}, np.zeros(1), np.zeros(1))[:, 0, 0].astype(float)
        contrast = []
        for k, line in enumerate(SOME.line):
            away = np.linalg.norm(np.cross(np.stack([gx, gy, 0 * gx], -1), GRAIN @ line), axis=-1)
            near = (away > 0.6) & (away < 1.4) & (np.hypot(gx, gy) < 3)
            curves = rendered(k, axis)[:, near]
            off = np.tensordot(STEPS[axis], curves, 1) / curves.sum(0) - STEPS[axis] @ perfect / perfect.sum()
            contrast.append(np.sqrt((off**2 / away[near]).sum() / (1 / away[near]).sum()))
        assert spearmanr(seen[:, n], contrast).statistic >= 0.95
        assert seen[hidden, n].max() < 1e-12
        assert np.array(contrast)[hidden].max() < 1e-12
    edge = (SOME.angle == 90) & (np.abs(SOME.burgers @ np.array(HKL)) < 1e-9)
    assert seen[edge].max(1).min() > 0.02


def test_equivalent__lines_have_equal_images_and_others_do_not() -> None:
    given = {"energy": SCOPE.energy, "parameter": CELL, "turn": [TURN]}
    every = catalogue(angles=12)
    found = equivalent(every, [HKL], **given)
    assert found.hidden.sum() == 6  # three screws of either sign
    shared = np.bincount(found.equal)[found.equal] > 1
    pairs = np.flatnonzero(shared & ~found.hidden)
    first = pairs[0]
    second = next(k for k in pairs[1:] if found.equal[k] == found.equal[first])
    assert np.abs(np.cross(every.burgers[first], every.burgers[second])).max() > 0.1
    other = next(k for k in pairs if found.turned[k] == found.turned[first] and found.equal[k] != found.equal[first])
    a, b, c = (rendered(k, "phi", every) for k in (first, second, other))
    contrast = np.abs(a - np.median(a, axis=(1, 2), keepdims=True)).max()
    assert np.abs(a - b).max() < 0.01 * contrast  # to first order in the distortion
    assert np.abs(a - c).max() > 0.1 * contrast
    both = equivalent(every, [HKL, (1, 1, 1)], **given | {"turn": [TURN, 0.2]})
    assert len(set(both.equal)) > len(set(found.equal))
    still = equivalent(every, [HKL], axes=(), **given)
    assert (still.equal == still.turned).all()  # one frame at the peak does not show the sign of b


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"axes": ("omega",)}, "use phi, chi or two_theta"),
        ({"turn": [0.1, 0.2]}, "has 2 values for 1 reflections"),
        ({"energy": 1.0}, "does not diffract at 1 keV"),
    ],
)
def test_equivalent__refuses(change, text: str) -> None:
    with pytest.raises(InputError, match=text):
        equivalent(catalogue(angles=2), [HKL], **{"energy": 17.0, "parameter": CELL} | change)
