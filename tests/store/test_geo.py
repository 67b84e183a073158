"""Files of dfxm-geo: positions in degree beside titles in rad, and what decides between them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

import dfxm_dask
from dfxm_dask.cli import cli
from dfxm_dask.errors import SourceError
from dfxm_dask.sources.readers import frames, list_scans, read_scan
from dfxm_dask.sources.source import Scan, load_beamline
from tests.beamline_files import known_counts

LINE = load_beamline("id03")


def write_geo(
    folder: Path,
    *,
    phi: np.ndarray | float,
    chi: np.ndarray | float = 0.0,
    two_dtheta: np.ndarray | float = 0.0,
    z: np.ndarray | float = 0.0,
    title: str | None = None,
    dtype: str = "uint16",
    exposure: float | None = 0.5,
    seed: int = 0,
) -> tuple[Path, np.ndarray]:
    """A file as dfxm-geo 3.0.0 writes it, of axes in rad (z in um). Returns it and its counts in recorded order."""
    axes = {"phi": phi, "chi": chi, "two_dtheta": two_dtheta, "z": z}
    grid = np.meshgrid(*(np.atleast_1d(values) for values in axes.values()), indexing="ij")
    each = {name: values.ravel(order="F") for name, values in zip(axes, grid, strict=True)}
    counts = known_counts(grid[0].size, seed=seed).astype(dtype)
    spans = [f"{m} {each[m].min():.6f} {each[m].max():.6f} {np.unique(each[m]).size}" for m in ("phi", "chi")]
    (folder / "scan0001").mkdir(parents=True)
    with h5py.File(folder / "scan0001" / "dfxm_sim_detector_0000.h5", "w") as file:
        image = file.create_dataset("entry_0000/dfxm_sim_detector/image", data=counts, chunks=(1, *counts.shape[1:]))
        if exposure:
            image.attrs["exposure_time"] = exposure
    with h5py.File(folder / "dfxm_geo.h5", "w") as file:
        file["dfxm_geo/version"] = "3.0.0"
        entry = file.create_group("1.1")
        entry["title"] = title if title is not None else f"fscan2d {' '.join(spans)} 1.0"
        link = h5py.ExternalLink("scan0001/dfxm_sim_detector_0000.h5", "/entry_0000/dfxm_sim_detector/image")
        entry["instrument/dfxm_sim_detector/data"] = link
        for name, values in axes.items():
            stored = each[name] if np.ndim(values) else float(values)
            place = f"instrument/positioners/{name}"
            entry[place] = stored if name == "z" else np.degrees(stored)
            entry[place].attrs["units"] = "micrometer" if name == "z" else "degree"
            entry[f"measurement/{name}"] = h5py.SoftLink(f"/1.1/{place}")
    return folder / "dfxm_geo.h5", counts


def read(path: Path, **options: Any) -> Scan:
    return read_scan(path, **({"beamline": LINE} | options))


def line(span: float, count: int, centre: float = 0.0) -> np.ndarray:
    return centre + np.linspace(-span, span, count)


@pytest.mark.parametrize(
    ("axes", "names"),
    [
        ({"phi": line(5.2e-4, 31)}, ["phi"]),
        ({"phi": line(6e-4, 7), "chi": line(2e-3, 5, 1e-3)}, ["chi", "phi"]),
        ({"phi": line(6e-4, 5), "two_dtheta": line(1e-4, 3)}, ["two_dtheta", "phi"]),
        ({"phi": 1e-4, "chi": line(2e-3, 4)}, ["chi"]),
        ({"phi": line(6e-4, 5), "chi": 1e-3}, ["phi"]),
        ({"phi": line(3e-6, 9)}, ["phi"]),  # steps of 0.75 urad, and a title of six digits
        ({"phi": 2e-4}, ["phi"]),
    ],
)
def test_read_scan__geo_positions_are_the_grid(tmp_path: Path, axes: dict[str, Any], names: list[str]) -> None:
    path, counts = write_geo(tmp_path / "g", **axes, z=-2.5)
    for positions in (None, "motor"):
        scan = read(path, positions=positions)
        assert [a.name for a in scan.axes] == names
        for axis in scan.axes:
            np.testing.assert_allclose(axis.positions, np.degrees(np.atleast_1d(axes[axis.motor])), rtol=1e-12)
            assert (axis.units, axis.source) == ("degree", "read")
        np.testing.assert_array_equal([f.copy() for _, f in frames(scan)], counts)
        np.testing.assert_array_equal(scan.order, np.arange(len(counts)))
        assert (scan.format, scan.z, scan.z_motor, scan.z_units) == ("dfxm-geo", -2.5, "z", "micrometer")
        np.testing.assert_array_equal(scan.exposure, np.full(len(counts), 0.5))
        still = {"phi", "chi", "two_dtheta"} - {a.motor for a in scan.axes}
        assert {m: scan.parked[m][:2] for m in still} == {m: (np.degrees(axes.get(m, 0.0)), "degree") for m in still}


def test_read_scan__geo_title_by_command(tmp_path: Path) -> None:
    phi, chi = line(6.04e-4, 7), line(2e-3, 5)
    path, _ = write_geo(tmp_path / "g", phi=phi, chi=chi)
    scan = read(path, positions="command")
    for axis, values in zip(scan.axes, (chi, phi), strict=True):
        np.testing.assert_allclose(axis.positions, np.degrees(values), rtol=1e-9)
        assert (axis.units, axis.source) == ("degree", "commanded")
    words = "its numbers are in rad; its third number is the end, not the step; its first motor is the fast one"
    assert {a.attrs["title_read_as"] for a in read(path).axes} == {words}
    assert not any("title_read_as" in a.attrs for a in read(path, positions="motor").axes)


@pytest.mark.parametrize(
    "title",
    [
        "fscan2d phi -0.000600 0.000700 7 chi 0.000000 0.000000 1 1.0",  # another end
        "fscan2d phi -0.000600 0.000600 8 chi 0.000000 0.000000 1 1.0",  # another number
        "fscan phi -0.034377 0.034377 7 1.0",  # in degree
    ],
)
def test_read_scan__geo_title_that_contradicts_the_motors(tmp_path: Path, title: str) -> None:
    path, _ = write_geo(tmp_path / "g", phi=line(6e-4, 7), title=title)
    with pytest.raises(
        SourceError, match=r"title moves phi from .* rad .*; use --positions motor or --positions command"
    ):
        read(path)
    (axis,) = read(path, positions="motor").axes
    np.testing.assert_allclose(axis.positions, np.degrees(line(6e-4, 7)))
    if " 8 " not in title:
        start, end = (float(word) for word in title.split()[2:4])
        (axis,) = read(path, positions="command").axes
        np.testing.assert_allclose(axis.positions, np.degrees(np.linspace(start, end, 7)))


@pytest.mark.parametrize("title", ["identify-single N_frames=7", ""])
def test_read_scan__geo_without_a_command(tmp_path: Path, title: str) -> None:
    path, _ = write_geo(tmp_path / "g", phi=line(6e-4, 7), title=title)
    assert read(path).shape == (7,)
    with pytest.raises(SourceError, match="title does not contain the motion of phi; use --positions motor"):
        read(path, positions="command")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"phi": line(6e-4, 5), "z": line(1, 3)},
            r"scans z, which moves the layer; simulate each layer in a separate file",
        ),
        ({"phi": line(6e-4, 3), "chi": line(1e-3, 3), "two_dtheta": line(1e-4, 2)}, "scans 3 motors"),
        ({"phi": line(6e-4, 5), "dtype": "float32"}, r"float32, not counts; add a \[detector\]"),
    ],
)
def test_refuses__geo_files_that_are_no_scan(tmp_path: Path, options: dict[str, Any], words: str) -> None:
    with pytest.raises(SourceError, match=words):
        read(write_geo(tmp_path / "g", **options)[0])


def test_refuses__geo_positions_off_the_grid(tmp_path: Path) -> None:
    path, _ = write_geo(tmp_path / "g", phi=line(6e-4, 4), chi=line(1e-3, 3))
    with h5py.File(path, "a") as file:
        file["1.1/instrument/positioners/chi"][5] = 0.01
    with pytest.raises(SourceError, match="the positions do not form a grid of chi"):
        read(path)


def test_ingest__geo_layers(tmp_path: Path) -> None:
    made = [write_geo(tmp_path / f"g{k}", phi=line(6e-4, 5), z=float(z), seed=k) for k, z in enumerate((3, -1))]
    assert list_scans(made[0][0]) == [("1.1", "fscan2d phi -0.000600 0.000600 5 chi 0.000000 0.000000 1 1.0")]
    words = ["ingest", *(str(path) for path, _ in made), str(tmp_path / "s.zarr")]
    result = CliRunner().invoke(cli, words)
    assert result.exit_code == 0, result.output
    assert "if its numbers are in rad" in result.output
    raw = dfxm_dask.open_scan(tmp_path / "s.zarr", chunks=None)["raw"]
    assert raw.z.values.tolist() == [-1, 3]
    np.testing.assert_array_equal(raw.counts.values, [made[1][1], made[0][1]])


@pytest.mark.slow
def test_read_scan__what_its_command_line_writes(tmp_path: Path) -> None:
    python = os.environ.get("DFXM_GEO_PYTHON")
    if not python:
        pytest.skip("DFXM_GEO_PYTHON names no Python with dfxm-geo 3.0.0")
    (tmp_path / "c.toml").write_text(
        "[reciprocal]\nhkl = [-1, 1, -1]\nkeV = 17.0\nbackend = 'analytic'\nbeamstop = false\neps_rms = 6.0e-5\n"
        "[scan.phi]\nrange = 5.2e-4\nsteps = 5\n[scan.chi]\nrange = 1e-3\nsteps = 3\n"
        "[crystal]\nmode = 'wall'\n[crystal.wall]\ndis = 4.0\nndis = 5\nsample_remount = 'S1'\n"
        "[detector]\nexposure_time = 0.5\ncounts_scale = 20000.0\nrng_seed = 5\n"
        "[detector_geometry]\npixel_size = 40e-9\nmagnification = 1\nNpixels = 60\n"
        "[io]\ninclude_perfect_crystal = false\nwrite_strain_provenance = false\nmax_workers = 1\n"
        "[postprocess]\nenabled = false\n"
    )
    run = "from dfxm_geo.cli import cli_main; cli_main(['--config', 'c.toml', '--output', 'out', '--no-postprocess'])"
    subprocess.run([python, "-c", run], cwd=tmp_path, check=True, capture_output=True, timeout=600)
    scan = read(tmp_path / "out" / "dfxm_geo.h5")
    assert (scan.format, [a.name for a in scan.axes], scan.shape) == ("dfxm-geo", ["chi", "phi"], (3, 5))
    np.testing.assert_allclose(scan.axes[1].positions, np.degrees(line(5.2e-4, 5)), atol=1e-9)
    np.testing.assert_allclose(scan.axes[0].positions, np.degrees(line(1e-3, 3)), atol=1e-9)
    assert scan.exposure[0] == 0.5  # type: ignore[index]
    assert sum(1 for _ in frames(scan)) == 15
