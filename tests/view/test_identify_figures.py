"""Figures of identified dislocations: names by Miller indices, probabilities, and the verdict."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from dfxm_dask.view.export import export
from dfxm_dask.view.identify.candidates import chance, draw_candidates, ranked
from dfxm_dask.view.identify.labels import axes_and_cell, burgers_name, character, direction_name
from dfxm_dask.view.pictures import figures
from tests.view.identified import CELL, candidates
from tests.view.test_figures import check_page, page_texts


def test_candidates__are_ranked_with_sign_and_none() -> None:
    tree = candidates()
    (page,) = figures(tree, only=["candidates"]).values()
    check_page(page)
    said = [text.get_text() for text in page_texts(page)]
    assert said[0].startswith("b = a/2[1 −1 0], line [1 0 −1] (60°), plane (1 1 1): probability")
    found = ranked(tree)
    assert found is not None
    probability = found.probability
    widths = [bar.get_width() for bar in page.axes[0].patches]
    np.testing.assert_allclose(widths, [*np.sort(probability)[::-1][:12], 0.01])
    other = found.opposite[2]
    sign = probability[2] / (probability[2] + probability[other])
    assert f"Probability of the sign of b, given the line: {chance(sign)}." in said
    np.testing.assert_allclose(found.vectors["line"][other], -found.vectors["line"][2], atol=1e-12)
    (page,) = figures(candidates(none=0.97), only=["candidates"]).values()
    assert "No dislocation, with probability 0.97." in [text.get_text() for text in page_texts(page)]
    tree["identify/probability"] = tree["identify/probability"] * np.nan
    tree["identify/match_reason"] = tree["identify/match_reason"] + np.uint16(2)
    page = draw_candidates(tree, 0, "")
    check_page(page)
    assert "Remarks: misfit." in [text.get_text() for text in page_texts(page)]


def test_visibility__screws_with_g_perpendicular_to_b_are_dark() -> None:
    (page,) = figures(candidates(), only=["visibility"]).values()
    check_page(page)
    table = page.axes[0].images[0].get_array()
    assert table.shape == (12, 9)
    rows = [label.get_text() for label in page.axes[0].get_yticklabels()]
    dark = np.array(["g·b = 0" in row for row in rows])
    assert dark.sum() == 6
    np.testing.assert_allclose(table[dark, :3], 0.01)  # the lower end of the colours
    assert (table[dark, 6:].max(axis=1) > 0.07).all()  # edges keep contrast along an axis
    assert (table[~dark, 0] > 0.5).all()
    del (tree := candidates()).attrs["hkl"]
    assert "visibility" not in figures(tree)


def test_names__are_those_of_the_crystal_else_of_the_store() -> None:
    crystal = axes_and_cell(candidates())
    assert crystal is not None
    axes, _ = crystal
    assert burgers_name(CELL * axes @ [0.5, 0.5, 0], crystal) == "a/2[1 1 0]"
    assert burgers_name(CELL * axes @ [1.0, 0, 0], crystal) == "a[1 0 0]"
    assert burgers_name(np.array([2.86e-4, 0, 0]), None) == "[0.286 0 0] nm"
    assert direction_name(axes @ [-1, 1, 2], crystal) == "[−1 1 2]"
    assert direction_name(axes @ [1.0, 0.123, 0], crystal).startswith("0.")
    assert [character(np.array([1.0, 0, 0]), np.array(t, float)) for t in ([-1, 0, 0], [0, 0, 1])] == ["screw", "edge"]
    del (tree := candidates()).attrs["lattice"]
    assert axes_and_cell(tree) is None


def test_export__table_of_candidates(tmp_path: Path) -> None:
    tree = candidates()
    assert {path.name for path in export(tree, tmp_path)} == {
        f"{name}.{ending}" for name in ("candidates", "identification") for ending in ("csv", "units.json")
    }
    head = (tmp_path / "candidates.csv").read_text().partition("\n")[0].split(",")
    assert head[:4] == ["candidate", "burgers_x", "burgers_y", "burgers_z"]
    assert "probability" in head
