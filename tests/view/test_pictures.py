"""Pictures as they are asked for: which ones, in what format, with what record; refusals before anything is drawn."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import xarray as xr
from click.testing import CliRunner
from matplotlib.figure import Figure
from PIL import Image

import dfxm_dask
from dfxm_dask import __version__
from dfxm_dask.cli.pictures import figures as command
from dfxm_dask.errors import InputError
from dfxm_dask.view.figures.curves import fitted_peak
from dfxm_dask.view.figures.index import FigureKind
from dfxm_dask.view.probes.pages import line_pixels, pixel_at
from tests.stores import raw_store
from tests.view.test_figures import check_page

Scan = Callable[..., xr.DataTree]


def small(scan: Scan, layers: int = 1, **options: Any) -> xr.DataTree:
    """A scan with few maps."""
    tree = scan(layers=layers, ny=20, nx=30, **options)
    return tree.assign({"rocking": xr.DataTree(tree["rocking"].to_dataset()[["total", "com_phi", "flags"]])})


def test_figures__are_figures_without_a_folder_and_names_are_chosen(reduced_scan: Scan) -> None:
    tree = small(reduced_scan)
    tree["rocking"] = xr.DataTree(tree["rocking"].to_dataset()[["total", "flags"]])
    found = dfxm_dask.figures(tree, only="maps")
    assert list(found) == ["total", "flags"]
    assert all(isinstance(page, Figure) for page in found.values())
    assert list(dfxm_dask.figures(tree, only=["flags"])) == ["flags"]


def test_figures__draw_nothing_that_was_not_asked_for(reduced_scan: Scan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(FigureKind, "pages", lambda *_: pytest.fail("drawn"))
    assert list(dfxm_dask.figures(small(reduced_scan), variable="com_phi")) == ["com_phi"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"only": "mosaik"},
            "figure mosaik: is not among the figures of this store: maps, total, com_phi, flags, curves",
        ),
        ({"variable": "kam"}, "variable kam: is not a map of this store, which has total, com_phi, flags, frames/"),
        ({"format": "tiff"}, "format 'tiff': is unknown; choose one of png, pdf, svg"),
        ({"limits": (0, 1)}, "limits: 0 variables are named; name one variable"),
        ({"limits": (2, 1), "variable": "total"}, "limits 2,1: are not two ascending numbers"),
        ({"limits": (0, 1), "variable": "flags"}, "limits of flags: the map shows classes"),
        ({"point": (0, 99)}, "point at 0,99: lies outside of the scan, y -0.1 to 3.9, x -0.0325 to 1.9175 um; move it"),
        ({"profile": (0, 0, 0, 0.01)}, "profile: starts and ends in the same pixel"),
        ({"layer": 1}, "layer 1: the scan has 1, numbered from 0; choose 0 to 0"),
    ],
)
def test_figures__refuse_in_one_line_before_they_draw(
    reduced_scan: Scan, tmp_path: Path, options: dict[str, Any], words: str
) -> None:
    with pytest.raises(InputError, match=re.escape(words)) as refused:
        dfxm_dask.figures(small(reduced_scan), tmp_path / "out", **options)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


def test_figures__of_a_variable_have_its_limits_in_its_unit(reduced_scan: Scan) -> None:
    tree = small(reduced_scan)
    plain, told = (dfxm_dask.figures(tree, variable="com_phi", limits=each)["com_phi"] for each in (None, (0.28, 0.31)))
    assert isinstance(told, Figure)
    assert isinstance(plain, Figure)
    assert told.axes[0].images[0].get_clim() == (0.28, 0.31)
    np.testing.assert_array_equal(np.ma.filled(told.axes[0].images[0].get_array(), np.nan), tree["rocking/com_phi"][0])
    # Without: about the median in mdeg, between percentiles of the sound pixels.
    com, flags = np.asarray(tree["rocking/com_phi"][0]), np.asarray(tree["rocking/flags"][0])
    sound = com[(flags & 15 == 0) & np.isfinite(com)]
    expected = 1e3 * (np.percentile(sound, [1, 99]) - np.median(sound))
    assert plain.axes[0].images[0].get_clim() == pytest.approx(expected)
    check_page(told)


def test_figures__headings_count_layers_from_one_and_files_from_zero(reduced_scan: Scan, tmp_path: Path) -> None:
    found = dfxm_dask.figures(small(reduced_scan, layers=3), tmp_path, variable="total", layer=1)
    assert found == {"total": tmp_path / "total_layer1.png"}
    page = dfxm_dask.figures(small(reduced_scan, layers=3), variable="total", layer=1)["total"]
    assert isinstance(page, Figure)
    assert page.texts[0].get_text() == "synthetic bent crystal\nz = 2 µm (layer 2 of 3)"


def test_figures__record_store_layer_figure_and_version(reduced_scan: Scan, tmp_path: Path) -> None:
    tree = small(reduced_scan, layers=2)
    paths = [
        dfxm_dask.figures(tree, tmp_path, variable="total", format=each)["total"] for each in ("png", "pdf", "svg")
    ]
    png, pdf, svg = (Path(str(path)) for path in paths)
    with Image.open(png) as image:
        told = image.info
    assert (told["Figure"], told["Store"]) == ("total", "synthetic bent crystal")
    assert told["Layer"] == "z = 2 um (layer 2 of 2)"
    assert told["Software"] == f"dfxm_dask {__version__}"
    for path in (pdf, svg):
        content = path.read_bytes().decode("latin-1")
        assert all(word in content for word in ("total of synthetic bent crystal", "layer 2 of 2", __version__))
    assert svg.read_text().count("<svg") == 1
    # Our own files are replaced, also those that name us at their end.
    dfxm_dask.figures(tree, tmp_path, variable="total", format="pdf")


def test_figures__do_not_take_up_settings_of_the_user(reduced_scan: Scan, tmp_path: Path) -> None:
    tree = small(reduced_scan)
    plain = dfxm_dask.figures(tree, tmp_path / "plain", variable="com_phi")["com_phi"]
    hostile = {
        "axes.facecolor": "black",
        "font.size": 31,
        "savefig.bbox": "tight",
        "image.origin": "lower",
        "axes.spines.left": False,
        "xtick.direction": "in",
        "figure.constrained_layout.use": True,
        "axes.grid": True,
        "savefig.transparent": True,
    }
    with matplotlib.rc_context(hostile):  # type: ignore[arg-type]
        before = dict(matplotlib.rcParams)
        own = dfxm_dask.figures(tree, tmp_path / "own", variable="com_phi")["com_phi"]
        assert dict(matplotlib.rcParams) == before
    with Image.open(str(plain)) as first, Image.open(str(own)) as second:
        np.testing.assert_array_equal(np.asarray(first), np.asarray(second))


def test_figures__show_the_side_up_that_the_docstring_says(reduced_scan: Scan) -> None:
    import matplotlib.pyplot as plt

    tree = small(reduced_scan)
    page = dfxm_dask.figures(tree, variable="total")["total"]
    assert isinstance(page, Figure)
    drawn = tree["rocking"]["total"][0].plot(yincrease=False)
    try:
        for axes in (page.axes[0], drawn.axes):
            low, high = axes.get_ylim()
            assert low > high  # y grows downwards
        assert page.axes[0].images[0].origin == "upper"
    finally:
        plt.close("all")


def test_point__has_the_curve_of_the_nearest_pixel(reduced_scan: Scan) -> None:
    tree = small(reduced_scan)
    page = dfxm_dask.figures(tree, point=(2.05, 1.0))["point"]
    assert isinstance(page, Figure)
    check_page(page)
    row, column = 10, 15
    (curve,) = (line for line in page.axes[-1].lines if len(line.get_xdata()) == tree.sizes["phi"])
    np.testing.assert_array_equal(curve.get_ydata(), tree["raw/counts"][0, :, row, column])
    assert pixel_at(tree, 2.05, 1.0, "point") == (row, column)
    assert "dotted: background; dashed: centre of mass" in page.texts[-1].get_text()


def test_fitted_peak__is_the_model_that_was_fitted() -> None:
    one = {"fit_centre_phi": 1.0, "fit_fwhm_phi": 0.5, "fit_mixing": 0.3, "fit_amplitude": 10.0, "fit_background": 2.0}
    assert fitted_peak(np.array([1.0, 0.75, 1.25]), one, "phi") == pytest.approx([12.0, 7.0, 7.0])


def test_profile__has_the_values_of_the_pixels_on_the_line(reduced_scan: Scan) -> None:
    tree = small(reduced_scan)
    page = dfxm_dask.figures(tree, profile=(2.0, 0.0, 2.0, 1.95 - 0.065), variable="total")["profile_total"]
    assert isinstance(page, Figure)
    check_page(page)
    distance, values = page.axes[-1].lines[0].get_data()
    row = np.asarray(tree["rocking/total"][0, 10])
    np.testing.assert_array_equal(np.unique(np.asarray(values)), np.unique(row))
    assert np.asarray(distance)[[0, -1]] == pytest.approx([0, 1.885])
    _, rows, columns = line_pixels(tree, (0.0, 0.0, 3.8, 1.885))
    steps = np.abs(np.diff(rows)) + np.abs(np.diff(columns))
    assert (rows[0], columns[0], rows[-1], columns[-1]) == (0, 0, 19, 29)
    assert steps.max() <= 2  # no pixel is skipped


def test_difference__is_this_store_less_the_other(reduced_scan: Scan) -> None:
    tree, other = small(reduced_scan), small(reduced_scan)
    moved = other["rocking"].to_dataset()
    moved["com_phi"] = moved["com_phi"] - 0.004
    other["rocking"] = xr.DataTree(moved)
    pages = dfxm_dask.figures(tree, difference=other)
    assert list(pages) == ["difference_total", "difference_com_phi"]
    page = pages["difference_com_phi"]
    assert isinstance(page, Figure)
    image = np.ma.filled(page.axes[0].images[0].get_array(), np.nan)
    assert image[np.isfinite(image)] == pytest.approx(4.0)  # mdeg
    assert page.texts[0].get_text().endswith("minus the other store")
    for coords, found in (
        ({"x": other["x"] + 0.5}, "x is 0.5 to 2.385, and 0 to 1.885 in this store"),
        ({"y": other["y"].assign_attrs(units="pixel")}, "y is in pixel, and in um in this store"),
    ):
        root = other.to_dataset().assign_coords(coords)
        away = xr.DataTree.from_dict({"/": root, "/rocking": moved.drop_vars(["x", "y"])})
        with pytest.raises(InputError, match=re.escape(f"difference with the other store: {found}; choose")):
            dfxm_dask.figures(tree, difference=away)


def test_figures__command_takes_all_options(tmp_path: Path) -> None:
    store = raw_store(tmp_path, shape=(5,), size=(20, 30))
    out = tmp_path / "out"
    done = CliRunner().invoke(command, [str(store), str(out), "--point", "1,2", "--format", "svg", "--layer", "0"])
    assert done.exit_code == 0, done.output
    assert [path.name for path in out.iterdir()] == ["point.svg"]
    wrong = CliRunner().invoke(command, [str(store), str(out), "--point", "1"])
    assert "'1' is not Y,X" in wrong.output
