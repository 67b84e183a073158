"""Other data than a reduction reads are refused when the graph is built, and the call in the refusal helps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import dfxm_dask
from dfxm_dask.errors import InputError

POSITIONS = np.arange(5) * 0.1
COUNTS = np.random.default_rng(0).poisson(100, (2, 5, 6, 7)).astype("uint16")
SOUND = xr.Dataset(
    {"counts": (("z", "phi", "y", "x"), COUNTS, {"units": "count"})},
    {"z": [0.0, 1.0], "phi": ("phi", POSITIONS, {"units": "degree"}), "y": np.arange(6.0), "x": np.arange(7.0)},
)

MISUSED: dict[str, Callable[[], Any]] = {
    "DataArray": lambda: SOUND["counts"],
    "DataArray of another name, without z": lambda: SOUND["counts"].isel(z=0).rename("frames"),
    "numpy array": lambda: COUNTS,
    "numpy array of one layer": lambda: COUNTS[0],
    "DataTree": lambda: xr.DataTree.from_dict({"raw": SOUND, "rocking": xr.Dataset()}),
    "DataTree of one node": lambda: xr.DataTree.from_dict({"/": SOUND}),
    "z is a number": lambda: SOUND.isel(z=1),
    "no z": lambda: SOUND.isel(z=1, drop=True),
    "row and col": lambda: SOUND.rename(y="row", x="col"),
    "frame, row, col": lambda: SOUND.isel(z=0, drop=True).rename(phi="frame", y="row", x="col").drop_vars("frame"),
    "sides of images by number": lambda: SOUND.drop_vars(("y", "x")).rename(y="dim_2", x="dim_3"),
    "layer, Y, X": lambda: SOUND.rename(z="layer", y="Y", x="X"),
    "scan axis last": lambda: SOUND.transpose("z", "y", "x", "phi"),
    "no y": lambda: SOUND.isel(y=0),
    "other name of counts": lambda: SOUND.rename(counts="intensity"),
    "no positions": lambda: SOUND.drop_vars("phi"),
    "positions to and fro": lambda: SOUND.assign_coords(phi=[0, 0.2, 0.1, 0.4, 0.3]),
    "a position twice": lambda: SOUND.assign_coords(phi=[0, 0.1, 0.1, 0.2, 0.3]),
    "a position that is unknown": lambda: SOUND.assign_coords(phi=[0, 0.1, np.nan, 0.2, 0.3]),
    "positions as text": lambda: SOUND.assign_coords(phi=list("abcde")),
    "positions as dates": lambda: SOUND.assign_coords(phi=np.arange(5).astype("M8[s]")),
    "truth values": lambda: SOUND.assign(counts=SOUND.counts > 90),
    "complex": lambda: SOUND.assign(counts=SOUND.counts.astype("complex128")),
    "objects": lambda: SOUND.assign(counts=SOUND.counts.astype(object)),
    "small integers": lambda: SOUND.assign(counts=(SOUND.counts // 2).astype("int8")),
}


@pytest.mark.parametrize("kind", MISUSED)
def test_call__of_other_data_is_refused_with_a_call_that_helps(kind: str) -> None:
    given = MISUSED[kind]()
    names = {"xarray": xr, "positions": POSITIONS}
    remedies: list[str] = []
    while len(remedies) < 5:
        try:
            found = dfxm_dask.moments(given, background="none")
            break
        except InputError as error:
            remedies.append(error.remedy)
            given = eval(
                error.remedy.removeprefix("call ").removeprefix("pass "),
                names | dict.fromkeys(("dataset", "array", "tree"), given),
            )
    assert 0 < len(remedies) < 5
    assert found["total"].dims == ("z", "y", "x")
    kept = given["counts"]
    assert kept.dims[0] == "z"
    assert kept.dims[2:] == ("y", "x")
    if "no " not in kind and kept.shape[:2] == (2, 5) and "values" not in kind:
        right = MISUSED[kind]()["counts"].values if kind == "small integers" else COUNTS
        assert np.array_equal(kept.sum("phi"), right.sum(1))


def test_call__of_what_is_no_scan_at_all() -> None:
    for given in (None, "a.zarr", Path("a.zarr"), [SOUND], {"counts": COUNTS}, COUNTS[0, 0]):
        with pytest.raises(InputError, match=r"moments: input: is a .*open_scan\(path\)\['raw'\]\.to_dataset\(\)"):
            dfxm_dask.moments(given, background="none")
    with pytest.raises(InputError, match=r"'counts': is not in the Dataset \(empty\)"):
        dfxm_dask.moments(xr.Dataset(), background="none")
    total = xr.Dataset({"counts": SOUND["counts"].isel(phi=slice(0, 1))})  # one position is in order
    assert dfxm_dask.moments(total, background="none")["total"].shape == (2, 6, 7)


@pytest.mark.parametrize(
    ("words", "match"),
    [
        ({"pixel_size": 0.1}, r"pixel_size: is 0\.1; .*pixel_size=\(0\.1, 0\.1\)"),
        ({"pixel_size": (0.1,)}, r"pixel_size: is \(0\.1,\)"),
        ({"pixel_size": "0.1,0.1"}, r"pixel_size: is '0\.1,0\.1'"),
        ({"pixel_size": (True, 0.1)}, r"pixel_size: is \(True"),
        ({"pixel_size": np.ones((2, 2))}, r"pixel_size"),
        ({"roi": (0, 10)}, r"roi: is \(0, 10\); .*roi=\(y0, y1, x0, x1\)"),
        ({"roi": 10}, r"roi: is 10"),
        ({"roi": ((0, 10), (0, 10))}, r"roi: is"),
        ({"roi": "0:10,0:10"}, r"roi: is '0:10"),
        ({"scan": 1.1}, r"scan: is 1\.1; write entries as text: scan='1\.1'"),
        ({"scan": [1.1, 2.1]}, r"scan: is \[1\.1, 2\.1\]"),
        ({"scan": True}, r"scan: is True"),
        ({"z": 3.0}, r"z: is 3\.0; .*z=\[3\.0\]"),
        ({"z": np.float64(3)}, r"z: is"),
        ({"z": "0,1"}, r"z: is '0,1'"),
        ({"z": [0.0, None]}, r"z: is \[0\.0, None\]"),
    ],
)
def test_ingest__of_other_kinds_of_arguments_is_refused(words: dict[str, Any], match: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=match):
        dfxm_dask.ingest(tmp_path / "no.h5", tmp_path / "s.zarr", **words)
    assert not list(tmp_path.iterdir())
