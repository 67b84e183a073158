"""The dislocation of a scan from maps of the centre of mass, such as those of a phi-chi scan."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated

import numpy as np
from pydantic import Field

from dfxm_dask.identify.catalogue import LINE_ANGLES, catalogue, on_axes, opposite
from dfxm_dask.identify.curves.bins import binned, covariances, means
from dfxm_dask.identify.curves.decide import WRITES, Options, finish, joined
from dfxm_dask.identify.curves.model import Response, lines_of, responses, sensitivity
from dfxm_dask.identify.match import inside, known_crystal, microscope_of
from dfxm_dask.optics.defects.lattice import Lattice
from dfxm_dask.optics.forward import setting
from dfxm_dask.reduction import Arrays, reduction
from dfxm_dask.schema import AXES, COM, COM_COVARIANCE, COM_ERROR, X, Y, Z

ROTATIONS = ("phi", "chi", "two_theta")
PITCH = 0.2  # um, bins of the fit (our choice)


@reduction(
    reads=(COM, AXES, Y, X, Z),
    may_read=(COM_ERROR, COM_COVARIANCE),
    writes=WRITES,
    over=("y", "x"),
    combine=joined,
    finish=finish,
    group="identify_curves",
    positions="common",
    fits=partial(known_crystal, "burgers_from_curves"),
)
def burgers_from_curves(
    com: dict[str, np.ndarray],
    scan: dict[str, np.ndarray],
    y: np.ndarray,
    x: np.ndarray,
    z: np.ndarray,
    com_error: dict[str, np.ndarray] | None = None,
    com_covariance: dict[tuple[str, str], np.ndarray] | None = None,
    *,
    microscope: Annotated[
        str, Field(description="name of the microscope; its Bragg angle follows from the lattice and hkl")
    ] = "id06_al111",
    lattice: Annotated[
        Lattice | None,
        Field(
            description="crystal: {kind: fcc or bcc, parameter: um, x: [h, k, l], z: [h, k, l], hkl: [h, k, l]}, with"
            " the crystal directions along axes x and z; by default the crystal recorded in the store"
        ),
    ] = None,
    angles: Annotated[
        int, Field(ge=2, le=360, multiple_of=2, description="line directions in every slip plane, over 360 degree")
    ] = LINE_ANGLES,
    box: Annotated[
        list[float] | None,
        Field(
            min_length=4,
            max_length=4,
            description="first and last y, first and last x of the evaluated part; by default the whole frame",
            json_schema_extra={"unit": "um"},
        ),
    ] = None,
    inner: Annotated[
        float,
        Field(ge=0, description="distance from the line of the nearest pixels", json_schema_extra={"unit": "um"}),
    ] = 0.3,
    outer: Annotated[
        float,
        Field(gt=0, description="distance from the line of the farthest pixels", json_schema_extra={"unit": "um"}),
    ] = 3.0,
    floor: Annotated[
        float,
        Field(
            gt=0,
            description="systematic error of the centre of mass, added in quadrature",
            json_schema_extra={"unit": "degree"},
        ),
    ] = 1e-4,
    position_floor: Annotated[
        list[float],
        Field(
            min_length=2,
            max_length=2,
            description="systematic errors of the position along y and x, added in quadrature",
            json_schema_extra={"unit": "um"},
        ),
    ] = [0.012, 0.028],  # noqa: B006
    bending: Annotated[
        int, Field(ge=1, le=2, description="degree of the polynomial that describes the bending of the lattice")
    ] = 1,
    smear: Annotated[
        list[float],
        Field(
            min_length=2,
            max_length=2,
            description="standard deviations along y and x over which a pixel averages the lattice: wave fields of a"
            " thick crystal and camera; along x at least the shear of the light sheet",
            json_schema_extra={"unit": "um"},
        ),
    ] = [0.255, 0.91],  # noqa: B006
    weak: Annotated[
        float,
        Field(gt=0, le=1, description="brightness of weak relative to strong beam; 1 for a kinematic crystal"),
    ] = 0.05,
    none_prior: Annotated[
        float, Field(gt=0, lt=1, description="prior probability of a lattice without a dislocation")
    ] = 0.5,
    sheet: Annotated[
        float | None,
        Field(
            gt=0,
            description="FWHM of the height of the light sheet; by default that of the microscope",
            json_schema_extra={"unit": "um"},
        ),
    ] = None,
    poisson: Annotated[float, Field(gt=-1, lt=0.5, description="Poisson ratio")] = 0.334,
    tail: Annotated[float, Field(ge=0, le=1, description="Lorentzian fraction of the acceptance")] = 0.2,
    tail_width: Annotated[
        float,
        Field(gt=0, description="half width of the Lorentzian at half maximum", json_schema_extra={"unit": "degree"}),
    ] = 0.00143,
) -> Arrays:
    """Burgers vector, line direction and slip plane of one dislocation, from maps of the centre of mass.

    Maps of the centre of mass along phi, chi and two_theta show components of the distortion about the line, with their
    sign, so that they also determine the sign of the Burgers vector. The scan, or the part in ``box``, shows one
    straight dislocation or none. If the scan has several layers, one line passes through all of them.

    Parameters
    ----------
    com_error : dict of arrays, optional
        See :func:`dfxm_dask.moment_errors`. By default the scatter between neighbouring pixels gives the errors.

    Returns
    -------
    dict
        Candidates that the maps do not distinguish from the best one have ``curve_class`` 0; those of class 2 have no
        contrast, like a lattice without a dislocation. ``curve_probability`` is NaN where no candidate describes the
        maps (``curve_reason``).

    Notes
    -----
    The lattice about a line deviates by q = -beta^T g/|g|. The scan turns the lattice back into the acceptance; with
    the inverse covariance K of the acceptance and the moves A of the scan axes it peaks at the angles::

        peak = -(A^T K A)^-1 A^T K q + c0 + c1 x + c2 y

    where the plane c describes the bending of the lattice, for every layer and axis. Wave fields, the light sheet and
    the camera average q over a Gaussian. The centre of mass of the sampled curve follows from the peak through the
    response of the scan, which has steps if the scan samples the acceptance coarsely.

    A search by correlation gives the position of every candidate. Weighted least squares refine position and bending
    with the pixels at ``inner`` to ``outer`` from the best line, the same pixels for all candidates. Laplace's method
    gives the evidence. All variances are multiplied by T, the larger of 1, the mean squared residual, and that of the
    means over blocks of 8 by 8 bins, which accounts for correlated residuals. Two candidates form one class if
    their maps differ by a chi2 of less than 16.

    References
    ----------
    Maps of phi-chi scans: Pal et al., dislocations in aluminium. Model, evidence and errors: our own definition.

    Examples
    --------
    Maps of noise show no dislocation.

    >>> import numpy as np
    >>> import dfxm_dask
    >>> from dfxm_dask.optics.defects.lattice import Lattice
    >>> lattice = Lattice(parameter=4.05e-4, x=(1, 0, -0.158), z=(0.158, 0, 1), hkl=(0, 0, 2))
    >>> noise = np.random.default_rng(0).normal(0, 1e-4, (48, 16))
    >>> axes = {"phi": np.linspace(-0.03, 0.03, 31)}, 0.1 * np.arange(48.0), 0.3 * np.arange(16.0), np.zeros(1)
    >>> made = dfxm_dask.burgers_from_curves.kernel({"phi": noise}, *axes, lattice=lattice, angles=2)
    >>> bool(dfxm_dask.burgers_from_curves.finish(made)["curve_none_probability"][0] > 0.95)
    True
    """
    known_crystal("burgers_from_curves", {"microscope": microscope, "lattice": lattice}, {})
    known = Lattice(**lattice) if isinstance(lattice, dict) else lattice
    assert known is not None
    scope = microscope_of(microscope, known)
    if sheet is not None:
        scope = replace(scope, sheet=sheet / 2.355)
    at = setting(scope.theta)
    axes = [a for a in ROTATIONS if a in scan and scan[a].size > 2]
    rows, columns = (
        inside("burgers_from_curves", y, box[:2] if box else None),
        inside("burgers_from_curves", x, box[2:] if box else None),
    )
    crystal = catalogue(known.kind or "fcc", angles=angles)
    candidates = on_axes(crystal, known)
    places = {a: np.deg2rad(scan[a]) for a in axes}
    tails = {"tail": tail, "tail_width": float(np.deg2rad(tail_width)), "weak": weak}
    response = responses(scope, at, places, **tails) if axes else Response(np.zeros((0, 2)), np.zeros((0, 2)))
    matrix = sensitivity(scope, at, axes) if axes else np.zeros((0, 3))
    bins = [max(1, round(PITCH / abs(side[1] - side[0]))) if side.size > 1 else 1 for side in (y, x)]
    shear = scope.sheet**2 * np.outer(at.shear, at.shear)
    spread = shear + np.diag([max(smear[1] ** 2 - shear[0, 0], 0.0), smear[0] ** 2, 0.0])
    spread[[0, 1], [0, 1]] += [_width(x, bins[1]) ** 2 / 12, _width(y, bins[0]) ** 2 / 12]
    lines = lines_of(candidates, at.direction, matrix, spread, poisson)
    maps = np.deg2rad(np.array([com[a][rows][:, columns] for a in axes]).reshape(len(axes), rows.size, columns.size))
    covariance = covariances(axes, maps, rows, columns, com_error, com_covariance)
    centre, information = binned(maps, covariance, bins)
    own_y, own_x = (means(side[which], b) for side, which, b in ((y, rows, bins[0]), (x, columns, bins[1])))
    scatter = float(com_error is None or any(a not in com_error for a in axes))
    options = Options(
        inner, outer, float(np.deg2rad(floor)), none_prior, 5 * scope.sheet, scatter, bending, *position_floor
    )
    return {
        "curve_burgers": candidates.burgers,
        "curve_line": candidates.line,
        "curve_plane_normal": candidates.plane_normal,
        "curve_line_angle": candidates.angle,
        "curve_opposite": opposite(crystal),
        **{f"line_{name}": value for name, value in lines._asdict().items()},
        **{f"response_{name}": value for name, value in response._asdict().items()},
        "option": np.array(options),
        "bin_y": own_y,
        "bin_x": own_x,
        "bin_centre": centre[None],
        "bin_information": information[None],
        "bin_z": np.array([float(np.mean(z))]),
    }


def _width(values: np.ndarray, size: int) -> float:
    """Edge of a bin, um."""
    return size * abs(float(values[1] - values[0])) if values.size > 1 else 0.0
