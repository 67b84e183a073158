"""The same work with other tools: stock zarr, xarray expressions, a hand-written block function, darling, darfix."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import dask.array as da
import h5py
import hdf5plugin  # noqa: F401  (the filter of LIMA files)
import numpy as np
import xarray as xr
import zarr
from numpy.typing import ArrayLike
from zarr.codecs import BloscCodec

from bench.data import OFFSET
from bench.ours import MAPS

DEFAULT_PIPELINE = {"codec_pipeline.path": "zarr.core.codec_pipeline.BatchedCodecPipeline"}
BLOCK = (256, 512)
"""Rows and columns that peers take at a time: with 31 frames 8 MB, and whole chunks of every layout here."""


def blosc() -> BloscCodec:
    """The codec of the store, so that layouts are compared and not codecs."""
    return BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=2)


def write_layout(path: Path, layers: list[np.ndarray], phi: np.ndarray, chunk: tuple[int, ...], shard: Any) -> Path:
    """Counts in another layout, written through zarr; opens as a Dataset."""
    partial = path.with_suffix(".partial")
    group = zarr.open_group(str(partial), mode="w")
    array = group.create_array(
        "counts",
        shape=(len(layers), *layers[0].shape),
        dtype="u2",
        chunks=chunk,
        shards=shard,
        compressors=[blosc()],
        dimension_names=("z", "phi", "y", "x"),
        config={"write_empty_chunks": True},
    )
    for z, layer in enumerate(layers):
        array[z] = layer
    group.create_array("phi", data=phi, dimension_names=("phi",))
    partial.rename(path)
    return path


def read_blocks(array: zarr.Array) -> None:
    """Read the first layer block by block through zarr's own pipeline."""
    ny, nx = array.shape[-2:]
    for y in range(0, ny, BLOCK[0]):
        for x in range(0, nx, BLOCK[1]):
            array[0, :, y : y + BLOCK[0], x : x + BLOCK[1]]


def xarray_ingest(master: Path, target: Path) -> None:
    """One layer from HDF5 to Zarr as xarray does it: the layer as one Dask block, the default codec."""
    import dask

    with h5py.File(master) as file, dask.config.set(scheduler="synchronous"):
        frames = da.from_array(file["1.1/measurement/pco_ff"], chunks=(-1, -1, -1))[None]
        dataset = xr.Dataset({"counts": (("z", "phi", "y", "x"), frames)})
        chunks = (1, frames.shape[1], 256, 256)
        dataset.to_zarr(target, mode="w", encoding={"counts": {"chunks": chunks}}, consolidated=False)


def open_counts(path: Path, group: str | None, phi: np.ndarray, block: dict[str, int]) -> xr.DataArray:
    """Counts of any store as an xarray variable, with Dask blocks that suit the layout."""
    counts = xr.open_zarr(path, group=group, chunks=None, consolidated=None if group else False)["counts"]
    counts = counts.chunk(block)
    return counts.drop_vars(list(counts.coords)).assign_coords(phi=phi.astype("f4"))


def expression(counts: xr.DataArray) -> xr.Dataset:
    """The seven maps as one writes them with xarray."""
    phi = counts.phi
    weight = (counts.astype("f4") - np.float32(OFFSET)).clip(0)
    total = weight.sum("phi")
    centre = (weight * phi).sum("phi") / total
    away = phi - centre
    variance = (weight * away**2).sum("phi") / total
    third, fourth = ((weight * away**k).sum("phi") / total for k in (3, 4))
    at, skewness, kurtosis = weight.idxmax("phi"), third / variance**1.5, fourth / variance**2 - 3
    maps = (total, weight.max("phi"), at, centre, np.sqrt(variance), skewness, kurtosis)
    return xr.Dataset({name: m.astype("f4") for name, m in zip(MAPS, maps, strict=True)})


def moments_block(block: np.ndarray, phi: np.ndarray) -> np.ndarray:
    """The seven maps of one block (z, phi, y, x), in numpy with one matrix product for all sums."""
    layers = []
    middle = (phi[0] + phi[-1]) / 2
    u = phi - middle
    for counts in block:
        weight = np.maximum(counts.astype("f4") - np.float32(OFFSET), 0)
        flat = weight.reshape(len(phi), -1)
        s0, s1, s2, s3, s4 = (u ** np.arange(5)[:, None]).astype("f4") @ flat
        with np.errstate(divide="ignore", invalid="ignore"):
            m1, m2, m3, m4 = s1 / s0, s2 / s0, s3 / s0, s4 / s0
            variance = m2 - m1**2
            third = m3 - 3 * m1 * m2 + 2 * m1**3
            fourth = m4 - 4 * m1 * m3 + 6 * m1**2 * m2 - 3 * m1**4
            maps: list[ArrayLike] = [
                s0,
                flat.max(0),
                phi[flat.argmax(0)],
                m1 + middle,
                np.sqrt(variance),
                third / variance**1.5,
                fourth / variance**2 - 3,
            ]
        layers.append(np.stack([np.asarray(m, "f4").reshape(counts.shape[1:]) for m in maps]))
    return np.stack(layers)


def block_maps(counts: xr.DataArray) -> xr.Dataset:
    """The seven maps through one function on blocks, which reads every block once."""
    phi = counts.phi.values.astype("f8")
    z, _, y, x = counts.data.chunks
    maps = da.map_blocks(
        moments_block, counts.data, phi, dtype="f4", chunks=(z, (len(MAPS),), y, x), meta=np.empty((0,) * 4, "f4")
    )
    return xr.Dataset({name: (("z", "y", "x"), maps[:, k]) for k, name in enumerate(MAPS)})


def write(dataset: xr.Dataset, target: Path) -> None:
    """Compute and write with xarray's defaults, on whatever scheduler is current."""
    dataset.to_zarr(target, mode="w", consolidated=False)


def darling_moments(master: Path) -> float:
    """Seconds that darling takes to load a layer and compute its mean and covariance; nothing is written."""
    import darling

    start = time.perf_counter()
    data, motors = darling.reader.RockingScan(str(master))("1.1")
    darling.properties.moments(data, motors)
    return time.perf_counter() - start


DARFIX = """
import json, logging, sys, time
import numpy as np
from importlib.metadata import version
from darfix._core.rocking_curves import fit_rocking_curve_parallel
logging.disable(logging.CRITICAL)
if __name__ == "__main__":
    patch = np.load(sys.argv[1])
    def fit(counts):
        start = time.perf_counter()
        maps = fit_rocking_curve_parallel(counts, {"mu": patch["phi"]})[1]
        return time.perf_counter() - start, maps
    fit(patch["counts"][:, :2])
    spent, maps = min((fit(patch["counts"]) for _ in range(int(sys.argv[2]))), key=lambda pair: pair[0])
    print(json.dumps({"seconds": spent, "version": version("darfix"), "maps": sorted(maps)}))
"""
"""The calls of ``Dataset.apply_fit`` of darfix 7, without the positioners of a file; runs in the other environment."""


def darfix_fit(python: str, counts: np.ndarray, phi: np.ndarray, work: Path, repeats: int) -> dict[str, Any]:
    """Seconds of darfix's fit of a patch (phi, y, x) with its default options, in an environment of its own."""
    np.savez(work / "patch.npz", counts=counts.astype("f4"), phi=phi)
    (work / "darfix_fit.py").write_text(DARFIX)
    command = [python, "darfix_fit.py", "patch.npz", str(repeats)]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=900)
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found
