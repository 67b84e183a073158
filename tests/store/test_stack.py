"""Layers of one stack: equal, converted or refused, never mixed."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dfxm_dask.errors import SourceError
from dfxm_dask.sources.source import Scan, load_beamline
from dfxm_dask.sources.stack import frame_positions, layer_z, remarks
from dfxm_dask.store.ingest import read_layers

LINE = load_beamline("id03")
IN_UNIT = {"deg": 1.0, "mrad": 1e3 * np.pi / 180, "urad": 1e6 * np.pi / 180, "rad": np.pi / 180, "arcsec": 3600.0}
IN_MM = {"mm": 1.0, "um": 1e3, "m": 1e-3, "nm": 1e6}
IN_AMPERE = {"A": 1.0, "mA": 1e3, "nA": 1e9}
ROWS, COLUMNS, STEP = 3, 5, 0.002


@dataclass
class Layer:
    """One layer as a file tells it; ``phi`` are the true positions (degree) in recorded order."""

    z: float
    command: str = "fscan"
    motor: str = "mu"
    start: float = 0.3
    step: float = STEP
    columns: int = COLUMNS
    mode: str | None = "ZIGZAG"
    unit: str | None = "deg"
    z_unit: str = "mm"
    z_motor: str = "samz"
    form: tuple[int, ...] = (-1,)
    camera: str = "pco_ff"
    dtype: str = "uint16"
    size: tuple[int, int] = (3, 4)
    exposure: float = 0.1
    read: bool = True
    counters: dict[str, tuple[float, str | None]] = field(default_factory=dict)
    recorded: dict[str, Any] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        return ROWS if self.command == "fscan2d" else 1

    @property
    def order(self) -> np.ndarray:
        row, column = np.divmod(np.arange(self.rows * self.columns), self.columns)
        return row * self.columns + np.where(
            (self.mode == "ZIGZAG") & (row % 2 == 1), self.columns - 1 - column, column
        )

    @property
    def phi(self) -> np.ndarray:
        row, column = np.divmod(self.order, self.columns)
        share = 0.45 if self.command != "ascan" else 0.0
        side = np.where((self.mode == "ZIGZAG") & (row % 2 == 1) & (self.rows > 1), -share, share)
        return self.start + self.step * (column + side)

    @property
    def title(self) -> str:
        scale = IN_UNIT[self.unit or "deg"]
        start, step = self.start * scale, self.step * scale
        if self.command == "ascan":
            stop, intervals = start + step * (self.columns - 1), self.columns - 1
            return f"ascan {self.motor} {start:.12g} {stop:.12g} {intervals} {self.exposure}"
        slow = f"chi 0 0.1 {ROWS} " if self.command == "fscan2d" else ""
        tail = f"{self.motor} {start:.12g} {step:.12g} {self.columns} {self.exposure} {self.exposure / 0.9:.12g}"
        return f"{self.command} {slow}{tail}"

    def write(self, entry: h5py.Group, counts: np.ndarray | None = None) -> None:
        n = self.rows * self.columns
        entry["title"] = self.title
        place = entry.create_dataset(f"instrument/positioners/{self.z_motor}", data=self.z * IN_MM[self.z_unit])
        place.attrs["units"] = self.z_unit
        if self.command == "fscan2d":
            entry["instrument/chi/value"] = 0.1 * (self.order // self.columns)
            for prefix, motor, start, step, count in (
                ("slow_", "chi", 0.0, 0.1, ROWS),
                ("fast_", self.motor, self.start, self.step, self.columns),
            ):
                scale = IN_UNIT[self.unit or "deg"] if prefix == "fast_" else 1.0
                for word, value in (
                    ("motor", motor),
                    ("start_pos", start * scale),
                    ("step_size", step * scale),
                    ("npoints", count),
                ):
                    entry[f"instrument/fscan_parameters/{prefix}{word}"] = value
            if self.mode:
                entry["instrument/fscan_parameters/fast_motor_mode"] = self.mode
        if self.read:
            values = (self.phi * IN_UNIT[self.unit or "deg"]).reshape(self.form)
            read = entry.create_dataset(f"instrument/{self.motor}/value", data=values)
        else:  # where it stood once
            read = entry.create_dataset(f"instrument/positioners/{self.motor}", data=self.phi[0])
        if self.unit:
            read.attrs["units"] = self.unit
        for name, (value, unit) in self.counters.items():
            data = entry.create_dataset(f"measurement/{name}", data=value * (1 + np.arange(n)))
            if unit:
                data.attrs["units"] = unit
        for name, value in {"image_roi": [0, 0, 4, 3], "image_bin": [1, 1], "gain": 2.0, "bit_depth": 12}.items():
            entry[f"instrument/{self.camera}/ctrl_parameters/{name}"] = value
        for name, value in {"chi": 0.0, "obpitch": 18.0, "ccmth": 6.68, "magnification": 10.0}.items():
            if not (name == "chi" and self.command == "fscan2d"):
                entry[f"instrument/positioners/{name}"] = value
        entry[f"instrument/{self.camera}/description"] = "PCO"
        for axis in "xy":
            entry[f"instrument/{self.camera}/{axis}_pixel_size"] = 6.5
        for name, value in self.recorded.items():
            if name in entry:
                del entry[name]
            if value is not None:
                entry[name] = value
        if counts is None:
            counts = np.full((n, *self.size), 7, self.dtype)
        entry[f"instrument/{self.camera}/data"] = counts


def set_(**change: Any) -> Any:
    """A plant that changes fields of a layer."""

    def plant(layer: Layer) -> None:
        for name, value in change.items():
            setattr(layer, name, value)

    return plant


def record(**change: Any) -> Any:
    """A plant that changes what the file records; "." is written as "__"."""

    def plant(layer: Layer) -> None:
        layer.recorded |= {name.replace("__", "/"): value for name, value in change.items()}

    return plant


def same_numbers(unit: str) -> Any:
    """The same numbers, which are other angles."""

    def plant(layer: Layer) -> None:
        layer.start, layer.step, layer.unit = layer.start / IN_UNIT[unit], layer.step / IN_UNIT[unit], unit

    return plant


def shift(steps: float) -> Any:
    def plant(layer: Layer) -> None:
        layer.start += steps * layer.step

    return plant


def counter(name: str, value: Any) -> Any:
    def plant(layer: Layer) -> None:
        layer.counters = {k: v for k, v in layer.counters.items() if k != name} | ({name: value} if value else {})

    return plant


POSITIONS = "instrument__positioners__"
CAMERA = "instrument__pco_ff__ctrl_parameters__"
ACCEPTED = {
    "nothing": set_(),
    **{f"angle in {unit}": set_(unit=unit) for unit in IN_UNIT},
    **{f"z in {unit}": set_(z_unit=unit) for unit in IN_MM},
    "positions in a column": set_(form=(-1, 1)),
    "positions in a row": set_(form=(1, -1)),
    "begins elsewhere": shift(0.3),
    "begins elsewhere, downwards": shift(-0.4),
    "begins a trifle elsewhere": shift(0.004),
    "positions not recorded": set_(read=False),
    "first counter not recorded": counter("mon", None),
    "no counter": set_(counters={}),
    "counter in mA": counter("mon", (2e-6 * 1e3, "mA")),
    "counter in nA": counter("mon", (2e-6 * 1e9, "nA")),
    "chi by an encoder step": record(**{f"{POSITIONS}chi": 1e-5}),
    "saved elsewhere": record(**{f"{CAMERA}saving_directory": "elsewhere"}),
    "another motor elsewhere": record(**{f"{POSITIONS}samx": 0.4}),
}
REFUSED = {
    **{f"numbers of degrees in {unit}": same_numbers(unit) for unit in ("mrad", "urad", "rad", "arcsec")},
    "region": record(**{f"{CAMERA}image_roi": [0, 8, 4, 3]}),
    "binning": record(**{f"{CAMERA}image_bin": [2, 2]}),
    "gain": record(**{f"{CAMERA}gain": 4.0}),
    "bit depth": record(**{f"{CAMERA}bit_depth": 14}),
    "pixel": record(instrument__pco_ff__x_pixel_size=3.1, instrument__pco_ff__y_pixel_size=3.1),
    "camera": set_(camera="basler_ff"),
    "model": record(instrument__pco_ff__description="Basler"),
    "magnification": record(**{f"{POSITIONS}magnification": 2.0}),
    "reflection": record(**{f"{POSITIONS}obpitch": 18.5}),
    "energy": record(**{f"{POSITIONS}ccmth": 6.7}),
    "motor": set_(motor="diffry"),
    "another axis": set_(motor="obpitch"),
    "z motor": set_(z_motor="difftz"),
    "z not recorded": record(**{f"{POSITIONS}samz": "ERR"}),
    "z of another motor": record(**{f"{POSITIONS}samz": None, f"{POSITIONS}difftz": 1.0}),
    "exposure": set_(exposure=0.2),
    "step": set_(step=STEP * 1.01),
    "direction": set_(step=-STEP, start=0.3 + STEP * (COLUMNS - 1)),
    "count": set_(columns=COLUMNS + 1),
    "begins far away": shift(0.8),
    "dtype": set_(dtype="uint32"),
    "signed": set_(dtype="int16"),
    "shape": set_(size=(3, 5)),
    "unit of the counter": counter("mon", (2e-6, "V")),
    "unit of the counter not recorded": counter("mon", (2e-6, None)),
}


def stack_of(layers: list[Layer], folder: Path, planted: int, plant: Any) -> Path:
    path = folder / "m.h5"
    with h5py.File(path, "w") as file:
        for k, layer in enumerate(layers):
            if k == planted:
                plant(layer)
            layer.write(file.create_group(f"{k + 1}.1"))
    return path


def read(path: Path) -> list[Scan]:
    return read_layers(path, "all", beamline=LINE, detector=None, roots=[], allow_partial=False)[0]


def check_truth(scans: list[Scan], layers: list[Layer]) -> None:
    """Every layer has its own true positions, place and counter, whatever it was recorded in."""
    truth = {f"{k + 1}.1": layer for k, layer in enumerate(layers)}
    assert (np.diff([layer_z(s) for s in scans]) > 0).all()
    assert len({(s.monitor_name, s.monitor_units) for s in scans}) == 1
    assert len({(a.name, a.motor, a.units, a.positions.size) for s in scans for a in s.axes}) == len(scans[0].axes)
    for s in scans:
        layer = truth[s.entry]
        assert layer_z(s) == pytest.approx(layer.z * 1e3, rel=1e-9)
        np.testing.assert_array_equal(s.order, layer.order)
        found = frame_positions(s, len(s.axes) - 1).reshape(-1)[layer.order]
        assert s.axes[-1].source == ("read" if layer.read else "commanded")
        off = np.abs(found - layer.phi) / STEP
        assert off.max() < (1e-6 if layer.read else 1.0)
        np.testing.assert_allclose(s.exposure, layer.exposure)
        if s.monitor is not None:
            value, unit = layer.counters[s.monitor_name]
            in_first = 1.0 if unit is None else IN_AMPERE[str(s.monitor_units)] / IN_AMPERE[unit]
            np.testing.assert_allclose(s.monitor, value * in_first * (1 + np.arange(len(s.order))), rtol=1e-12)
        assert s.saturation == 4095


@st.composite
def stacks(draw: st.DrawFn) -> tuple[list[Layer], int, str]:
    command = draw(st.sampled_from(["fscan", "ascan", "fscan2d"]))
    mode = draw(st.sampled_from(["ZIGZAG", "REWIND"])) if command == "fscan2d" else None
    number = draw(st.integers(2, 4))
    unit, z_unit = draw(st.sampled_from(list(IN_UNIT))), draw(st.sampled_from(list(IN_MM)))
    places = draw(st.permutations([-7.7, -7.699, -7.697, -7.6]))[:number]
    layers = [
        Layer(z, command, mode=mode, unit=unit, z_unit=z_unit, counters={"mon": (2e-6, "A"), "pico4": (30.0, None)})
        for z in places
    ]
    return layers, draw(st.integers(0, number - 1)), draw(st.sampled_from([*ACCEPTED, *REFUSED]))


def equal_converted_or_refused(case: tuple[list[Layer], int, str]) -> None:
    layers, planted, name = case
    with tempfile.TemporaryDirectory() as folder:
        path = stack_of(layers, Path(folder), planted, (ACCEPTED | REFUSED)[name])
        if name in REFUSED:
            with pytest.raises(SourceError, match="entry"):
                read(path)
            return
        scans = read(path)
    check_truth(scans, layers)
    remarks(scans)


@given(stacks())
@settings(max_examples=50, deadline=None, suppress_health_check=list(HealthCheck))
def test_read_layers__equal_converted_or_refused_but_never_mixed(case: tuple[list[Layer], int, str]) -> None:
    equal_converted_or_refused(case)


@pytest.mark.slow
@given(stacks())
@settings(max_examples=10_000, deadline=None, suppress_health_check=list(HealthCheck))
def test_read_layers__never_mixed_at_length(case: tuple[list[Layer], int, str]) -> None:
    equal_converted_or_refused(case)


@pytest.mark.parametrize("name", REFUSED)
def test_stacked__names_both_layers(tmp_path: Path, name: str) -> None:
    layers = [Layer(-7.7, counters={"mon": (2e-6, "A")}), Layer(-7.6, counters={"mon": (2e-6, "A")})]
    path = stack_of(layers, tmp_path, 1, REFUSED[name])
    with pytest.raises(SourceError) as caught:
        read(path)
    if name != "z not recorded":
        for entry in ("entry 1.1", "entry 2.1"):
            assert entry in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("places", "units", "right"),
    [
        ((5.0, 0.1, 5.1), ("mm", "um", "um"), True),
        ((5.0, 5.0), ("mm", "um"), False),
        ((0.0, 5e-6), ("mm", "um"), False),
        ((0.0, 1e-3, 2e-3, 2.005e-3), ("mm", "mm", "nm", "m"), False),
        ((0.0, 1e-3, 2e-3, 2.1e-3), ("mm", "mm", "nm", "m"), True),
    ],
)
def test_stacked__order_and_distance_after_conversion(
    tmp_path: Path, places: tuple[float, ...], units: tuple[str, ...], right: bool
) -> None:
    layers = [Layer(z, z_unit=unit) for z, unit in zip(places, units, strict=True)]
    path = stack_of(layers, tmp_path, 0, set_())
    if right:
        np.testing.assert_allclose([layer_z(s) for s in read(path)], np.sort(places) * 1e3)
    else:
        with pytest.raises(SourceError, match="one position"):
            read(path)


@pytest.mark.parametrize("unit", ["um", "nm", "m", "mm"])
@pytest.mark.parametrize("lacking", [1, 2])
def test_stacked__no_unit_of_z_is_assumed_beside_a_recorded_one(tmp_path: Path, lacking: int, unit: str) -> None:
    path = stack_of([Layer(-7.7, z_unit=unit), Layer(-7.6, z_unit=unit)], tmp_path, 0, set_())
    with h5py.File(path, "a") as file:
        del file[f"{lacking}.1/instrument/positioners/samz"].attrs["units"]
    how: dict[str, Any] = dict(detector=None, roots=[], allow_partial=False)
    if unit != "mm":  # which is what a file without a unit is taken in
        with pytest.raises(SourceError, match=rf"entry {lacking}.1: records no unit of samz, .*samz: {unit}"):
            read(path)
    for line, z in ((load_beamline("id03", {"units": {"samz": unit}}), None), (LINE, [-7700.0, -7600.0])):
        scans, _ = read_layers(path, "all", beamline=line, z=z, **how)
        np.testing.assert_allclose([layer_z(s) for s in scans], [-7700, -7600])


@pytest.mark.parametrize(
    ("samz", "difftz", "remedy"),
    [
        ((1.0, 1.0, 1.0), (5.0, 5.1, 5.2), "--motor difftz=z"),
        ((1.0, 1.002, 0.999), (5.0, 5.1, 5.2), "--motor difftz=z"),
        ((1.0, 1.1, 1.2), (5.0, 5.1, 5.2), "samz also moves: give --z"),
        ((1.0, 1.1, 1.2), (5.0, 5.0, 5.02), "samz also moves: give --z"),
        ((1.0, 1.1, 1.2), (5.0, 5.0, 5.005), None),
    ],
)
def test_stacked__of_two_z_motors_one_moves_the_layers(
    tmp_path: Path, samz: tuple[float, ...], difftz: tuple[float, ...], remedy: str | None
) -> None:
    layers = [
        Layer(z, recorded={"instrument/positioners/difftz": other}) for z, other in zip(samz, difftz, strict=True)
    ]
    path = stack_of(layers, tmp_path, 0, set_())
    if remedy is None:
        assert any("difftz (by 0.005)" in words for words in remarks(read(path)))
        return
    with pytest.raises(SourceError) as caught:
        read(path)
    assert remedy in str(caught.value)
    given = {"z": [0.0, 1.0, 2.0]} if "also" in remedy else {}
    line = LINE if given else load_beamline("id03", {"difftz": "z"})
    scans, _ = read_layers(path, "all", beamline=line, detector=None, roots=[], allow_partial=False, **given)
    assert [s.z for s in scans] == given.get("z", list(difftz))


@pytest.mark.parametrize(("motor", "by"), [("ccmth", 0.009), ("obpitch", -0.009), ("samx", 0.4)])
def test_remarks__motors_that_moved_between_layers(tmp_path: Path, motor: str, by: float) -> None:
    start = {"ccmth": 6.68, "obpitch": 18.0, "samx": 0.0}[motor]
    layers = [Layer(-7.7 + 0.1 * k, recorded={f"instrument/positioners/{motor}": start + by * k}) for k in (0, 1)]
    said = remarks(read(stack_of(layers, tmp_path, 0, set_())))
    assert any(f"{motor} (by {abs(by):g})" in words for words in said)
