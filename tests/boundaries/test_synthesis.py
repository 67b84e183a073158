"""Pictures of walls beside those of the forward model, ray by ray; and what they tell of g·b."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from dfxm_dask.boundaries.vectors.synthesis import (
    DISTANCES,
    PHASES,
    REACH,
    TAIL,
    WIDTH,
    folded_strip,
    image_likelihood,
    pictures_of,
    tails,
)
from dfxm_dask.boundaries.vectors.synthesis import _microscope as microscope
from dfxm_dask.optics.defects.lattice import Lattice, crystal_of
from dfxm_dask.optics.defects.scene import Scene
from dfxm_dask.optics.defects.subgrains import plane_wall
from dfxm_dask.optics.forward import image_stack

THETA = np.deg2rad(10.0)
S = np.sin(THETA), np.cos(THETA)
CRYSTAL = crystal_of(  # (002) of aluminium, turned by 35 degree about g and leaned by theta
    Lattice(
        parameter=4.05e-4,
        hkl=(0, 0, 2),
        x=(S[1] * np.cos(0.6), S[1] * np.sin(0.6), -S[0]),
        z=(S[0] * np.cos(0.6), S[0] * np.sin(0.6), S[1]),
    )
)

NUMBERS = 2, 4, 0  # of Burgers vectors: g·b is 1, 1, 0


def wall(number: int, spacing: float, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normal, line and Burgers vector of a tilt wall that layers cut."""
    burgers = CRYSTAL.burgers[number]
    normal = burgers / np.linalg.norm(burgers)
    rng = np.random.default_rng(seed)
    line = np.cross(normal, rng.normal(size=3))
    return normal, line / np.linalg.norm(line), burgers


def measured(normal: np.ndarray, line: np.ndarray, burgers: np.ndarray, spacing: float) -> tuple:
    """Cells (cell, 8) of both tails by the forward model, with all nodes of the sheet and the exact deviation."""
    box = np.array([[-14.0, -14, -5], [14, 14, 5]])
    content = np.cross(np.cross(normal, line), burgers)  # turns by b/D about the line
    built = plane_wall("tilt", np.zeros(3), normal, -content / spacing, burgers[None], line[None], box, 1e-3)
    scene = Scene(poisson=0.334, lines=built.lines, sheets=built.sheets)  # less what is even: about the local peak
    y = x = np.arange(-5, 5, 0.25)
    phi = np.concatenate([-TAIL, TAIL]) * WIDTH
    both = image_stack(scene, microscope(THETA), {"phi": phi}, y, x, nodes=9).reshape(2, TAIL.size, -1).sum(axis=1)
    gy, gx = np.meshgrid(y, x, indexing="ij")
    blank = np.zeros(gx.size)
    return np.column_stack([gx.ravel(), gy.ravel(), blank, blank, blank, *both, blank + 4]), built


@pytest.fixture(scope="module")
def walls() -> list[tuple]:
    out = []
    for number, spacing, seed in zip(NUMBERS, (3.0, 4.0, 5.0), (1, 2, 3), strict=True):
        normal, line, burgers = wall(number, spacing, seed)
        cells, built = measured(normal, line, burgers, spacing)
        out.append((cells, normal, line, built.boundaries[0].burgers[0], spacing))
    return out


def test_crystal__has_both_classes() -> None:
    assert CRYSTAL.products.tolist() == [0, 0, 1, -1, 1, -1]
    assert CRYSTAL.theta == pytest.approx(THETA)


@pytest.mark.parametrize("k", [0, 1, 2])
def test_tails__are_those_of_the_forward_model(walls: list[tuple], k: int) -> None:
    """Fields that add up, one period and the sheet by Fourier transform, against rays through all lines."""
    cells, normal, line, burgers, spacing = walls[k]
    flat = np.hypot(*normal[:2])
    near = np.abs(cells[:, :3] @ normal) < REACH * flat
    row = ((cells[near, :3] @ normal / (REACH * flat) + 1) / 2 * DISTANCES).astype(int)
    phase = np.mod(cells[near, :3] @ np.cross(normal, line) / spacing, 1.0) * PHASES[1]

    def alike(b: np.ndarray) -> float:
        made = tails(pictures_of(normal, line[None], np.array([spacing]), THETA), b[None])
        return max(
            min(
                spearmanr(made[t][row, (phase + move).astype(int) % PHASES[1]], cells[near, 5 + t]).statistic
                for t in (0, 1)
            )
            for move in range(0, PHASES[1], 2)
        )

    print(alike(burgers), alike(-burgers))
    assert alike(burgers) > 0.6
    assert alike(burgers) > alike(-burgers) + 0.15 * bool(abs(CRYSTAL.products[NUMBERS[k]]))


@pytest.mark.parametrize("k", [0, 1, 2])
def test_image_likelihood__tells_the_product_through_noise(walls: list[tuple], k: int) -> None:
    """Of all twelve Burgers vectors those of the true g·b come first: its size and, where it is not 0, its sign."""
    cells, normal, line, burgers, spacing = walls[k]
    rng = np.random.default_rng(k)
    noisy = cells.copy()
    noisy[:, 5:7] += rng.exponential(0.2 * cells[:, 5:7].std(), (len(cells), 2))
    found = folded_strip(noisy, normal, np.array([0.3, -0.2, 0.0]) @ line * line, line[None], np.array([spacing]))
    pictures = pictures_of(normal, line[None], np.array([spacing]), THETA)
    signed = np.concatenate([CRYSTAL.burgers, -CRYSTAL.burgers])
    products = np.concatenate([CRYSTAL.products, -CRYSTAL.products])
    scores = np.array([image_likelihood(found, pictures, b[None]) for b in signed])
    true = products[np.linalg.norm(signed - burgers, axis=1).argmin()]
    best = {p: scores[products == p].max() for p in (-1, 0, 1)}
    assert max(best, key=lambda p: best[p]) == true
    assert best[true] - max(v for p, v in best.items() if p != true) > 0.5


def test_folded_strip__of_little_is_none(walls: list[tuple]) -> None:
    cells, normal, line, _, spacing = walls[0]
    place = np.zeros(3), line[None], np.array([spacing])
    assert folded_strip(cells[:100], normal, *place) is None
    blank = cells.copy()
    blank[:, 6] = np.nan
    assert folded_strip(blank, normal, *place) is None
    assert folded_strip(cells, np.array([0.0, 0.1, np.sqrt(0.99)]), *place) is None
    whole = folded_strip(cells, normal, *place)
    corner = np.array([[-2.0, -2, -1], [2, 2, 2], [2, -2, -1], [-2, 2, 2]])
    assert folded_strip(cells, normal, *place, corner).cells.sum() < whole.cells.sum()
