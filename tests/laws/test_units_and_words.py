"""Units follow the scan axis, lengths are never assumed, and every long_name stands alone on the axis of a plot."""

from __future__ import annotations

import re

import pytest

from dfxm_dask.catalogue import load_reductions
from dfxm_dask.engine.shapes import check_axes, expanded_writes
from dfxm_dask.errors import InputError
from dfxm_dask.schema import SPACE, Variable, expand, rocking_axis
from tests.laws.test_reductions import AXES_SETS, EVERY, NAMES, computed, example, is_open, parameters

REDUCTIONS = load_reductions()
ANGLES = {  # by nature, whatever was scanned
    "normal_error",
    "line_error",
    "burgers_misfit",
    "burgers_next",
    "peak_step_expected",
    "dihedral",
    "dihedral_error",
    "step_expected",
    "step_expected_error",
    "orientation",
    "core_tilt",
    "line_angle",
    "curve_line_angle",
    "match_peak",
}
FORBIDDEN = re.compile(
    r"^(its|the same|this|that|those|these|what|where|it|they|of|from|as)\b"
    r"|^(is|has|are|shows|tells|gives|makes|marks|finds|takes|holds|says|sees|lies)\b"
    r"|\b(its|it|they|them|the same|this|those|these|there|what|any other)\b|\bwhere .* is\b|\.$|^\s|\s$"
)
OF_LENGTHS = [n for n in NAMES if any(v.name in SPACE and v.units for v in REDUCTIONS[n].reads)]


@pytest.mark.parametrize("units", ["keV", "mrad", "eV"])
@pytest.mark.parametrize("names", AXES_SETS, ids="-".join)
@pytest.mark.parametrize("name", NAMES)
def test_units__follow_the_scan_axis(name: str, names: tuple[str, ...], units: str) -> None:
    reduction, axes = REDUCTIONS[name], dict.fromkeys(names, units)
    if check_axes(reduction, axes, {}):
        pytest.skip("needs more axes")
    data = example(reduction, axes)
    data = data.assign_coords({a: data[a].assign_attrs(units=units) for a in axes})
    if name in ("kam", "segment_layers", "link_segments", "diffraction_vectors"):
        with pytest.raises(InputError, match=f"is in '{units}', not 'degree'"):
            reduction(data.assign({f"com_{a}": data[f"com_{a}"].assign_attrs(units=units) for a in axes}))
        return
    if is_open(reduction, data):
        result = computed(reduction, data)
    else:  # the graph has the units of its result
        result = reduction(data, **parameters(reduction))
    wanted = {v.name: v for v in expanded_writes(reduction, axes, reduction.validate(parameters(reduction)))}
    for variable in result.data_vars:
        assert result[variable].attrs["units"] == wanted[str(variable)].units
        assert result[variable].attrs["units"] != "degree" or variable in ANGLES
        assert "{" not in result[variable].attrs["units"]


@pytest.mark.parametrize("name", EVERY)
def test_units__of_a_template_are_declared_as_those_of_its_axis(name: str) -> None:
    of_axis = [v for v in REDUCTIONS[name].writes if "{axis}" in v.name and "{other}" not in v.name]
    assert [v.name for v in of_axis if v.units not in ("{units}", "1") or "{axis}" not in v.long_name] == []


def test_units__of_two_axes_are_those_of_the_rocking_axis() -> None:
    axes, peak = {"energy": "keV", "phi": "degree", "chi": "mrad"}, Variable("a", SPACE, "float32", "{units}", "a")
    local = REDUCTIONS["local_peak"]

    def of(sizes: dict[str, int], **chosen: str) -> str:
        (unit,) = {v.units for v in expanded_writes(local, axes, chosen, sizes) if v.name.endswith("_local")}
        return unit

    assert of({"energy": 9, "phi": 9, "chi": 9}) == "degree"
    assert of({"energy": 9, "phi": 1, "chi": 9}) == "keV"
    assert of({"energy": 2, "phi": 2, "chi": 9}) == "mrad"
    assert of({"energy": 9, "phi": 9, "chi": 9}, axis="chi") == "mrad"
    assert expand(peak, axes)[0].units == ""  # open: nothing is checked against a guess
    assert rocking_axis({}, {}) is None


@pytest.mark.parametrize("units", [None, "", "pixel", "mm", "nm"])
@pytest.mark.parametrize("name", OF_LENGTHS)
def test_lengths__are_refused_in_any_unit_but_micrometres(name: str, units: str | None) -> None:
    reduction = REDUCTIONS[name]
    data = example(reduction, dict.fromkeys(AXES_SETS[0], "degree"))
    for axis in (v.name for v in reduction.reads if v.name in SPACE):
        wrong = data.copy()
        wrong[axis].attrs = {} if units is None else {"units": units}
        with pytest.raises(InputError, match=f"{name}: needs {axis} in um, it .*assign_coords"):
            reduction(wrong) if not reduction.combine else reduction.gather(wrong)


def test_lengths__are_needed_by_the_reductions_of_lengths() -> None:
    assert {
        "kam",
        "local_peak",
        "enhance_beams",
        "isolate_lines",
        "threshold_beams",
        "gram_schmidt",
        "align_layers",
        "link_layers",
        "segment_layers",
        "link_segments",
        "characterise_boundaries",
    } <= set(OF_LENGTHS)


@pytest.mark.parametrize("name", EVERY)
def test_long_names__stand_alone(name: str) -> None:
    axes, reduction = {"chi": "degree", "phi": "degree"}, REDUCTIONS[name]
    names = [v.long_name for declared in reduction.writes for v in expand(declared, axes)]
    assert len(set(names)) == len(names)
    names += [v.long_name for declared in (*reduction.reads, *reduction.may_read) for v in expand(declared, axes)]
    for text in names:
        assert 4 <= len(text) <= 90, text
        assert not FORBIDDEN.search(text), text


def test_long_names__are_unique_in_a_group() -> None:
    seen: dict[tuple[str, str], str] = {}
    for reduction in REDUCTIONS.values():
        for v in (*reduction.writes, *reduction.reads, *reduction.may_read):
            if v.stored and not v.name.startswith(("pca_", "nmf_", "nica_", "gram_schmidt_")):
                assert seen.setdefault((reduction.group, v.long_name), v.name) == v.name, v.long_name


@pytest.mark.parametrize(
    "text",
    ["its angle", "the same beyond the peaks", "what is wrong with it", "a line.", "part of it", "shows it"],
)
def test_long_names__the_law_refuses_riddles(text: str) -> None:
    assert FORBIDDEN.search(text)
