"""Regions that a user draws as masks: the same as boxes, refused by name, and part of what a result depends on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dfxm_dask.components import gram_schmidt
from dfxm_dask.components.drawn_regions import drawn_regions
from dfxm_dask.components.regions import NAMES
from tests.components.test_gram_schmidt import STRIPES, fit, striped

SHAPE = (24, 72)


@pytest.fixture
def drawn(tmp_path: Path) -> list[dict[str, Any]]:
    """Masks of the three stripes."""
    regions = []
    for k, name in enumerate(NAMES):
        mask = np.zeros(SHAPE, bool)
        mask[:, 24 * k : 24 * (k + 1)] = True
        np.save(tmp_path / f"{name}.npy", mask)
        regions.append({"name": name, "mask": str(tmp_path / f"{name}.npy")})
    return regions


def test_masks__give_the_basis_of_the_same_boxes(drawn: list[dict[str, Any]]) -> None:
    layers = striped(1, 2)
    by_box = fit(layers)
    for regions in (drawn, [drawn[0], STRIPES[1], drawn[2]]):
        for name, values in fit(layers, regions).items():
            np.testing.assert_array_equal(values, by_box[name])


def test_masks__of_one_layer_count_in_that_layer_and_where_lit(drawn: list[dict[str, Any]]) -> None:
    found = fit(striped(1, 2), [drawn[0] | {"z": 1.0}, drawn[1], drawn[2]])
    assert found["gram_schmidt_pixels"].tolist() == [24 * 24, 2 * 24 * 24, 2 * 24 * 24]
    lit = np.random.default_rng(2).random(SHAPE) < 0.7
    y, x = np.arange(24.0), np.arange(72.0)
    for k, mask in enumerate(drawn_regions(drawn, lit, 0.0, y, x)):
        np.testing.assert_array_equal(mask, np.load(drawn[k]["mask"]) & lit)
    unlit = lit & (np.arange(72) >= 24)
    with pytest.raises(ValueError, match=r"region 'strong', mask .*strong.npy: is unlit at z = 3 um"):
        drawn_regions([drawn[0] | {"z": 3.0}, *drawn], unlit, 3.0, y, x)


def test_masks__belong_to_what_a_plan_depends_on(drawn: list[dict[str, Any]]) -> None:
    assert gram_schmidt.files is not None
    assert gram_schmidt.files(gram_schmidt.validate({})) == {}
    assert gram_schmidt.files(gram_schmidt.validate({"regions": STRIPES})) == {}
    parameters = gram_schmidt.validate({"regions": drawn})
    before = gram_schmidt.files(parameters)
    assert list(before) == [r["mask"] for r in drawn]
    assert before == gram_schmidt.files(parameters)
    other = np.load(drawn[0]["mask"])
    other[0, 0] = False
    np.save(drawn[0]["mask"], other)
    after = gram_schmidt.files(parameters)
    assert [before[p] == after[p] for p in before] == [False, True, True]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "is absent; give a .npy file"),
        (b"not numpy", "cannot be read as an array"),
        (b"", "cannot be read as an array"),
        (np.ones(SHAPE, np.uint8), r"is uint8 \(24, 72\); save one array \(y, x\) of bool"),
        (np.ones((2, *SHAPE), bool), r"is bool \(2, 24, 72\); save one array"),
        (np.array([{}]), "cannot be read as an array"),
        (np.zeros(SHAPE, bool), "is False everywhere"),
    ],
)
def test_masks__that_are_none_are_refused_by_name_in_the_plan_and_in_the_fit(
    drawn: list[dict[str, Any]], content: Any, text: str
) -> None:
    path = Path(drawn[1]["mask"])
    if content is None:
        path.unlink()
    elif isinstance(content, bytes):
        path.write_bytes(content)
    else:
        np.save(path, content)
    told = rf"region 'weak_minus', mask .*weak_minus.npy: {text}"
    assert gram_schmidt.files is not None
    with pytest.raises(ValueError, match=told):
        gram_schmidt.files(gram_schmidt.validate({"regions": drawn}))
    with pytest.raises(ValueError, match=told):
        fit(striped(1), drawn)


def test_masks__of_another_frame_or_of_several_arrays_are_refused(drawn: list[dict[str, Any]]) -> None:
    path = Path(drawn[2]["mask"])
    np.save(path, np.ones((24, 71), bool))
    with pytest.raises(ValueError, match=r"'weak_plus', mask .*: has \(24, 71\) pixels, the frame has \(24, 72\)"):
        fit(striped(1), drawn)
    with path.open("wb") as file:
        np.savez(file, a=np.ones(SHAPE, bool))
    with pytest.raises(ValueError, match=r"'weak_plus', mask .*: cannot be read as an array"):
        fit(striped(1), drawn)


@pytest.mark.parametrize(
    ("region", "text"),
    [
        ({"name": "strong"}, "region 'strong' has neither a box nor a mask"),
        (STRIPES[0] | {"mask": "strong.npy"}, "region 'strong' has both a box and a mask"),
    ],
)
def test_region__is_either_a_box_or_a_mask(region: dict[str, Any], text: str) -> None:
    for ask in (lambda: gram_schmidt.validate({"regions": [region]}), lambda: fit(striped(1), [region, *STRIPES[1:]])):
        with pytest.raises(ValueError, match=text):
            ask()
