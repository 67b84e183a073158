"""Lattice spacing and its strain from the scattering angle of one reflection."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from dfxm_dask.errors import InputError
from dfxm_dask.optics.crystal import wavelength
from dfxm_dask.reduction import reduction
from dfxm_dask.schema import SPACE, Variable, X, Y

AXIS = "two_theta"
COM = Variable(f"com_{AXIS}", SPACE, "float64", "degree", f"centre of mass along {AXIS}")
COM_ERROR = Variable(
    f"com_{AXIS}_error", SPACE, "float32", "degree", f"standard error of the centre of mass along {AXIS}"
)


def _needs(parameters: Mapping[str, Any], positions: Mapping[str, np.ndarray]) -> None:
    """Refuse an unknown energy, and a nominal reference without a spacing."""
    if parameters["energy"] is None:
        raise InputError("lattice_spacing: energy", "is unknown", "give the photon energy in keV, such as energy=17.0")
    if parameters["reference"] == "nominal" and parameters["nominal"] is None:
        raise InputError(
            "lattice_spacing: reference='nominal'",
            "needs the nominal spacing",
            "give it in angstrom, such as nominal=2.338, or set reference='mean'",
        )


@reduction(
    reads=(COM, Y, X),
    may_read=(COM_ERROR,),
    writes=(
        Variable("spacing", SPACE, "float64", "angstrom", "lattice spacing of the reflection"),
        Variable("spacing_error", SPACE, "float32", "angstrom", "standard error of the lattice spacing"),
        Variable("spacing_strain", SPACE, "float64", "1", "strain along the scattering vector"),
        Variable(
            "spacing_strain_error", SPACE, "float32", "1", "standard error of the strain along the scattering vector"
        ),
        Variable(
            "field_of_view_strain", SPACE, "float32", "1", "apparent strain by the field of view of the objective"
        ),
    ),
    over=("y", "x"),
    min_axes=0,
    fits=_needs,
)
def lattice_spacing(
    com_two_theta: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    com_two_theta_error: np.ndarray | None = None,
    *,
    energy: Annotated[
        float | None, Field(gt=1, le=1000, description="photon energy", json_schema_extra={"unit": "keV"})
    ] = None,
    offset: Annotated[
        float,
        Field(
            ge=-180,
            le=180,
            description="scattering angle at position 0 of the axis two_theta",
            json_schema_extra={"unit": "degree"},
        ),
    ] = 0.0,
    reference: Annotated[
        Literal["mean", "nominal"],
        Field(description="spacing without strain: the mean of the layer, or the nominal one"),
    ] = "mean",
    nominal: Annotated[
        float | None,
        Field(gt=0, description="nominal spacing of the reflection", json_schema_extra={"unit": "angstrom"}),
    ] = None,
    distance: Annotated[
        float | None,
        Field(
            gt=0,
            description="distance from the sample to the objective, for field_of_view_strain",
            json_schema_extra={"unit": "mm"},
        ),
    ] = None,
    downstream: Annotated[
        Literal["x", "-x", "y", "-y"], Field(description="direction of the map along the incident beam")
    ] = "x",
) -> dict[str, np.ndarray]:
    """Lattice spacing of one reflection and the strain along its scattering vector, with errors.

    One scan along two_theta, by the arm of the detector or the pitch of the objective over several planes, gives one of
    the six components of the strain. :func:`dfxm_dask.decompose` gives all of them from several reflections.

    Parameters
    ----------
    com_two_theta_error : array (y, x), float32, degree, optional
        Result of ``moment_errors``. Without it the errors are NaN.
    offset : float, degree
        0 where the axis has absolute scattering angles; twice the Bragg angle where it has deviations.
    reference : "mean" or "nominal"
        The energy and the zero of the axis are rarely known to 1e-4, so that strains relative to "nominal" have a
        common offset. "mean" removes differences between layers as well.
    distance : float, mm, optional
        By default ``field_of_view_strain`` is NaN.

    Returns
    -------
    dict
        ``field_of_view_strain`` is an offer: no other result contains it. Subtract it from ``spacing_strain`` where the
        objective is scanned or fixed and the optical axis passes through the middle of the map.

    Raises
    ------
    InputError
        Unknown energy or nominal spacing; scattering angles outside 0 to 180 degree.

    Notes
    -----
    With the wavelength lambda, two_theta = centre of mass + offset, and the distance L of the objective::

        spacing = lambda / (2 sin(theta)),     error = spacing cot(theta) / 2 · error of two_theta
        strain = spacing / reference - 1
        field_of_view_strain = cot(theta)/2 · sin(two_theta) · (s - s_middle) / L

    where s is the position downstream. A point away from the optical axis by u = -s sin(two_theta), across the
    diffracted beam, reaches the centre of the objective at another angle, u / L. Per pixel of the camera, the term
    is pixel / magnification / L · cot(theta)/2. The reference has no error.

    References
    ----------
    H. F. Poulsen et al., J. Appl. Cryst. 50 (2017) 1441; field of view: our own derivation.

    Examples
    --------
    >>> import dfxm_dask, xarray
    >>> com = xarray.DataArray(np.full((1, 2, 3), 20.0), dims=("z", "y", "x"), attrs={"units": "degree"})
    >>> side = {d: (d, 0.1 * np.arange(n), {"units": "um"}) for d, n in (("y", 2), ("x", 3))}
    >>> maps = dfxm_dask.lattice_spacing(xarray.Dataset({"com_two_theta": com}, coords=side), energy=17.0)
    >>> round(float(maps["spacing"][0, 0, 0]), 4)
    2.1

    The kernel alone, on one layer:

    >>> angle = np.array([[20.0, 20.01]])
    >>> made = lattice_spacing.kernel(angle, np.zeros(1), np.array([0.0, 0.1]), energy=17.0, reference="nominal",
    ...     nominal=2.1)
    >>> made["spacing"].round(5).tolist()
    [[2.09999, 2.09895]]
    """
    chosen = {"energy": energy, "reference": reference, "nominal": nominal}
    _needs(chosen, {})
    assert energy is not None  # checked
    angle = np.asarray(com_two_theta, np.float64) + offset
    known = np.isfinite(angle)
    if known.any() and not (0 < angle[known].min() and angle[known].max() < 180):
        raise InputError(
            "lattice_spacing: scattering angles",
            f"are {angle[known].min():.6g} to {angle[known].max():.6g} degree",
            "set offset to the scattering angle at position 0 of the axis two_theta",
        )
    theta = np.deg2rad(angle) / 2
    spacing = wavelength(energy) / (2 * np.sin(theta))
    base = float(np.mean(spacing[known])) if reference == "mean" and known.any() else np.nan
    base = float(nominal) if reference == "nominal" and nominal is not None else base
    error = np.full(angle.shape, np.nan)
    if com_two_theta_error is not None:
        error = spacing / np.tan(theta) / 2 * np.deg2rad(np.asarray(com_two_theta_error, np.float64))
    view = np.full(angle.shape, np.nan)
    if distance is not None:
        along = (x if downstream.endswith("x") else y[:, None]) * (-1.0 if downstream.startswith("-") else 1.0)
        away = along - (along.min() + along.max()) / 2
        view = np.sin(2 * theta) / np.tan(theta) / 2 * away / (1e3 * distance)
    return {
        "spacing": spacing,
        "spacing_error": error.astype(np.float32),
        "spacing_strain": spacing / base - 1,
        "spacing_strain_error": (error / base).astype(np.float32),
        "field_of_view_strain": view.astype(np.float32),
    }
