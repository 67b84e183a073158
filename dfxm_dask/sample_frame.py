"""Positions of voxels in the axes of the sample, and maps resampled on a grid along these axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from dfxm_dask.errors import InputError

if TYPE_CHECKING:
    import xarray as xr

SPACE = ("z", "y", "x")
NAMES = ("x_sample", "y_sample", "z_sample")
MOST_VOXELS = 50_000_000
"""Largest resampled volume, 400 MB a map (our choice)."""


def laboratory_to_sample(mu: float, omega: float = 0.0, chi: float = 0.0, phi: float = 0.0) -> np.ndarray:
    """Rotation from laboratory to sample coordinates, (3, 3): r_s = (R_y(-mu) R_z(omega) R_x(chi) R_y(phi))^T r_l.

    Parameters
    ----------
    mu, omega, chi, phi : float, degree
        Angles of the goniometer.

    Examples
    --------
    >>> laboratory_to_sample(90.0).round(12).tolist()
    [[0.0, 0.0, 1.0], [0.0, 1.0, 0.0], [-1.0, 0.0, 0.0]]
    """
    from dfxm_dask.optics.geometry import rotation_x, rotation_y, rotation_z

    m, o, c, p = np.deg2rad([mu, omega, chi, phi])
    return np.asarray((rotation_y(-m) @ rotation_z(o) @ rotation_x(c) @ rotation_y(p)).T)


def sample_coordinates(
    data: xr.Dataset,
    *,
    mu: float,
    omega: float = 0.0,
    chi: float = 0.0,
    phi: float = 0.0,
    theta: float | None = None,
    detector: Literal["vertical", "normal"] | None = None,
    stage: Literal["laboratory", "sample"] = "laboratory",
) -> xr.Dataset:
    """Maps with the positions of their voxels in the axes of the sample, as coordinates.

    Parameters
    ----------
    data : Dataset
        With the coordinates z, y and x in um, such as ``open_scan(path)["rocking"].to_dataset()``.
    mu, omega, chi, phi : float, degree
        Angles of the goniometer during the scan. mu is theta in the symmetric setting, in which the layer is inclined
        by theta to the diffracting planes.
    theta : float, degree, optional
        Bragg angle; needed with ``detector``.
    detector : "vertical" or "normal", optional
        If the pixels along x are those of the detector, referred to the object: "vertical" divides x by
        tan(2 theta), for a detector parallel to the vertical plane across the beam; "normal" divides it by
        sin(2 theta), for one normal to the diffracted beam. By default x is a position in the layer already, as with
        ``--pixel-size`` of the effective pixel.
    stage : "laboratory" or "sample"
        Axes along which the stage moves the sample from layer to layer: the vertical, for a stage below the
        goniometer; or z of the sample, for a stage on top.

    Returns
    -------
    Dataset
        The same variables, with the coordinates ``x_sample``, ``y_sample`` and ``z_sample`` (um) along those dims on
        which they depend. Nothing is computed or resampled.

    Raises
    ------
    InputError
        Positions that are missing or not in um, an angle that is not finite, or ``detector`` without a Bragg angle
        between 0 and 45 degree.

    Notes
    -----
    x is along the beam, z is up, and y = z × x. A layer is the plane that the beam illuminates, horizontal in the
    laboratory, so that all its voxels have the z of the layer::

        r_s = (R_y(-mu) R_z(omega) R_x(chi) R_y(phi))^T (x, y, z)                stage "laboratory"
        r_s = (R_y(-mu) R_z(omega) R_x(chi) R_y(phi))^T (x, y, 0) + (0, 0, z)    stage "sample"

    The signs of y and x are those of the coordinates: check that x increases along the beam and z upwards in the
    sample. The angles of single frames are not used: within a scan, they turn the sample by less than the error of a
    position, which is the angle times the distance from the axis.

    Examples
    --------
    >>> import dfxm_dask
    >>> maps = dfxm_dask.example_scan()
    >>> placed = dfxm_dask.sample_coordinates(maps, mu=10.0)
    >>> placed["z_sample"].dims, round(float(placed["z_sample"][0, -1] / placed["x"][-1]), 4)
    (('z', 'x'), -0.1736)
    """
    import xarray as xr

    for name in SPACE:
        units = data[name].attrs.get("units") if name in data.coords else "missing"
        if units != "um":
            raise InputError(f"sample_coordinates: coordinate {name!r}", f"is in {units!r}", "give positions in um")
    if not np.isfinite([mu, omega, chi, phi]).all():
        raise InputError("sample_coordinates", f"has angles {mu, omega, chi, phi}", "give finite angles in degree")
    if stage not in ("laboratory", "sample"):
        raise InputError(f"stage {stage!r}", "is not known", "take 'laboratory' or 'sample'")
    x, y, z = data["x"], data["y"], data["z"]
    if detector is not None:
        from dfxm_dask.optics.geometry import effective_pixel

        if theta is None:
            raise InputError(f"detector {detector!r}", "needs theta", "give the Bragg angle in degree")
        x = x * effective_pixel(1.0, float(np.deg2rad(theta)), detector)[1]
    turn = laboratory_to_sample(mu, omega, chi, phi)
    turn = np.where(np.abs(turn) < 1e-15, 0.0, turn)
    if stage == "sample":
        turn[:, 2] = (0.0, 0.0, 1.0)
    made = {}
    for name, row in zip(NAMES, turn, strict=True):
        parts = [p * f for p, f in zip((x, y, z), row, strict=True) if f]
        total = sum(parts[1:], parts[0]) if parts else xr.zeros_like(z)
        total = total.drop_vars(list(total.coords)).transpose(*(d for d in SPACE if d in total.dims))
        made[name] = (total.dims, total.data, {"units": "um", "long_name": f"position along {name[0]} of the sample"})
    return data.assign_coords(made)


def resample(
    data: xr.Dataset,
    spacing: Sequence[float],
    *,
    variables: Sequence[str] = (),
) -> xr.Dataset:
    """Maps on a regular grid along the axes of the sample.

    Parameters
    ----------
    data : Dataset
        From :func:`sample_coordinates`.
    spacing : (float, float, float), um
        Distance of grid points along z, y and x of the sample.
    variables : sequence of str
        Maps (z, y, x), by default all.

    Returns
    -------
    Dataset
        In memory, with the dims and coordinates z, y and x of the sample; the grid fills the box of all voxels. Floats
        are interpolated linearly between the eight voxels around a grid point, and NaN where one of them is NaN or
        missing; integers and truth values are those of the nearest voxel, and 0 or False beyond half a voxel from all.
        No value is extrapolated. A stack of a single layer has no volume and is refused.

    Raises
    ------
    InputError
        No coordinates of the sample, spacings that are not positive, voxels that are not evenly spaced, a single
        position along an axis, a variable that is not a map, or too many grid points.

    Examples
    --------
    >>> import dfxm_dask
    >>> maps = dfxm_dask.moments(dfxm_dask.example_scan(), background=100, noise_cut=5)
    >>> placed = dfxm_dask.sample_coordinates(maps[["com_phi"]], mu=10.0)
    >>> volume = dfxm_dask.resample(placed, (0.25, 1.0, 0.5))
    >>> volume["com_phi"].dims, bool(volume["com_phi"].isnull().any())
    (('z', 'y', 'x'), True)
    """
    import xarray as xr
    from scipy.ndimage import map_coordinates

    if missing := [name for name in NAMES if name not in data.coords]:
        raise InputError("resample", f"there is no coordinate {missing[0]}", "call dfxm_dask.sample_coordinates first")
    steps = np.asarray(spacing, np.float64)
    if steps.shape != (3,) or not (np.isfinite(steps) & (steps > 0)).all():
        raise InputError("resample: spacing", f"is {list(spacing)}", "give three positive lengths in um: z, y, x")
    names = list(variables) or [str(n) for n, v in data.data_vars.items() if v.dims == SPACE]
    for name in names:
        if name not in data or data[name].dims != SPACE:
            raise InputError(f"resample: variable {name!r}", "is not a map (z, y, x) of the Dataset", "name other maps")
    sizes = [data.sizes[d] for d in SPACE]
    if min(sizes) < 2:
        raise InputError("resample", f"has {sizes} voxels along z, y, x", "give at least two along every axis")
    for dim in SPACE:
        apart = np.diff(np.asarray(data[dim], np.float64))
        if not np.allclose(apart, apart.mean(), rtol=1e-3, atol=0) or not apart.mean():
            raise InputError(f"resample: coordinate {dim!r}", "is not evenly spaced", "select evenly spaced voxels")
    origin, matrix = _affine(data)
    corners = np.array(np.meshgrid(*([0.0, n - 1.0] for n in sizes), indexing="ij")).reshape(3, -1)
    box = matrix @ corners + origin[:, None]
    low = box.min(axis=1)
    count = np.floor((box.max(axis=1) - low) / steps * (1 + 1e-9)).astype(int) + 1
    if count.prod() > MOST_VOXELS:
        raise InputError(
            "resample", f"would have {count.prod()} grid points", f"give larger spacings: at most {MOST_VOXELS} points"
        )
    grid = [start + step * np.arange(n) for start, step, n in zip(low, steps, count, strict=True)]
    points = np.stack(np.meshgrid(*grid, indexing="ij")).reshape(3, -1) - origin[:, None]
    index = (np.linalg.inv(matrix) @ points).reshape(3, *count)
    near = np.rint(index * 1e9) / 1e9  # rounding must not push the outermost voxels out of the stack
    made = {}
    for name in names:
        values = np.asarray(data[name])
        if values.dtype.kind == "f":
            # NaN times a weight of zero is NaN: unknown voxels are counted apart.
            known = np.isfinite(values)
            total = map_coordinates(np.where(known, values, 0.0), near, order=1, mode="constant", cval=np.nan)
            lacking = map_coordinates((~known).astype(np.float64), near, order=1, mode="constant", cval=1.0)
            found = np.where(lacking > 1e-9, np.nan, total).astype(values.dtype)
        else:
            found = map_coordinates(values.astype(np.int64), near, order=0, mode="grid-constant", cval=0)
            found = found.astype(values.dtype)
        made[name] = (SPACE, found, dict(data[name].attrs))
    words = {d: {"units": "um", "long_name": f"position along {d} of the sample"} for d in SPACE}
    return xr.Dataset(made, {d: (d, g, words[d]) for d, g in zip(SPACE, grid, strict=True)})


def _affine(data: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """Position (z, y, x) of the first voxel in the axes of the sample, and the steps to the next along each dim."""
    first = dict.fromkeys(SPACE, 0)

    def at(place: dict[str, int]) -> np.ndarray:
        found = []
        for name in reversed(NAMES):
            coordinate = data[name]
            found.append(float(coordinate.isel({d: place[d] for d in SPACE if d in coordinate.dims})))
        return np.array(found)

    origin = at(first)
    ends = {d: data.sizes[d] - 1 for d in SPACE}
    return origin, np.stack([(at(first | {d: ends[d]}) - origin) / ends[d] for d in SPACE], axis=1)
