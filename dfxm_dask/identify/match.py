"""The dislocation of a scan: probabilities of all candidates, from the counts."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Annotated, Any

import numpy as np
from pydantic import Field
from scipy import ndimage

from dfxm_dask.errors import InputError
from dfxm_dask.identify.catalogue import LINE_ANGLES, Candidates, catalogue, on_axes, opposite
from dfxm_dask.identify.combine import alike, ranking
from dfxm_dask.identify.evidence import SAME, Evidence, Noise, evidences, record_of
from dfxm_dask.identify.images import flat_images, line_tables, scan_optics
from dfxm_dask.identify.propose import evidences_of, propose
from dfxm_dask.identify.published import correlations
from dfxm_dask.identify.search import peak_angle
from dfxm_dask.optics.crystal import wavelength
from dfxm_dask.optics.defects.lattice import Lattice
from dfxm_dask.optics.forward import setting
from dfxm_dask.optics.instrument.microscope import Microscope, find_microscope
from dfxm_dask.reduction import Arrays, reduction
from dfxm_dask.schema import AXES, COUNTS, XYZ, Dim, Variable, X, Y, Z

CANDIDATE, LAYER, ANSWER, YX = Dim("candidate"), Dim("layer"), Dim("answer", 1), Dim("yx", 2)
REASONS = (
    (1, "no_frames"),  # no frame of weak beam
    (2, "misfit"),  # the best candidate leaves residuals beyond the noise
    (4, "no_dislocation"),
    (8, "legacy"),  # the published correlation has no probability
)
FLAG = {meaning: mask for mask, meaning in REASONS}
MISFIT = 1.5  # chi2 per pixel with contrast above which no probability is stated (our choice)
LIT = 0.15  # of the median counts near the peak, below which a pixel is outside the crystal (our choice)
PITCH, COARSE = 0.04, 0.12  # um, pixels of the likelihood and of the search
HEIGHTS, COARSE_HEIGHTS = (9, 65, 513), (5, 33, 257)
CLASSES = "class: 0 equal to the best candidate within noise, 1 distinguished, 2 no contrast"
WRITES = (
    Variable("burgers", (CANDIDATE, XYZ), "float64", "um", "Burgers vector"),
    Variable("line", (CANDIDATE, XYZ), "float64", "1", "line direction"),
    Variable("plane_normal", (CANDIDATE, XYZ), "float64", "1", "normal of the slip plane"),
    Variable("line_angle", (CANDIDATE,), "float64", "degree", "angle from the Burgers vector to the line"),
    Variable("probability", (CANDIDATE,), "float64", "1", "probability of a candidate"),
    Variable("log_evidence", (CANDIDATE,), "float64", "1", "logarithm of the evidence relative to a perfect lattice"),
    Variable("candidate_class", (CANDIDATE,), "int64", "1", CLASSES),
    Variable("opposite", (CANDIDATE,), "int64", "1", "number of the candidate with the opposite Burgers vector"),
    Variable("line_position", (CANDIDATE, YX), "float64", "um", "y and x at which a line crosses the first layer"),
    Variable("line_position_error", (CANDIDATE, YX), "float64", "um", "standard error of the position of a line"),
    Variable("none_probability", (ANSWER,), "float64", "1", "probability of a lattice without a dislocation"),
    Variable("class_probability", (ANSWER,), "float64", "1", "probability of the class of the best candidate"),
    Variable("match_chi2", (LAYER,), "float64", "1", "squared residual per pixel with contrast over the variance"),
    Variable("match_peak", (LAYER,), "float64", "degree", "peak of the lattice along phi"),
    Variable("match_reason", (ANSWER,), "uint16", "1", "reasons for missing probabilities, and remarks", flags=REASONS),
)
PER_LAYER = ("log_evidences", "distance", "contrast", "line_position", "line_position_error")


def _joined(first: Arrays, second: Arrays) -> Arrays:
    fixed = {"burgers", "line", "plane_normal", "line_angle", "opposite", "none_prior", "misfit", "legacy"}
    return {n: first[n] if n in fixed else np.concatenate([first[n], second[n]]) for n in first}


def _finish(made: Arrays) -> Arrays:
    """Probabilities from the evidence of all layers."""
    order = np.argsort(made["layer_z"], kind="stable")
    logs = made["log_evidences"][order]
    used = ~np.isnan(logs).all(1)
    n = logs.shape[1]
    out = {name: made[name] for name in ("burgers", "line", "plane_normal", "line_angle", "opposite")}
    out["match_chi2"], out["match_peak"] = made["match_chi2"][order], made["match_peak"][order]
    first = int(order[np.argmax(used)])
    out["line_position"], out["line_position_error"] = made["line_position"][first], made["line_position_error"][first]
    unknown = {"probability": np.full(n, np.nan), "log_evidence": np.full(n, np.nan)}
    if not used.any():
        one = {"none_probability": np.array([np.nan]), "class_probability": np.array([np.nan])}
        classes = {"candidate_class": np.full(n, 1)}
        return out | unknown | one | classes | {"match_reason": np.array([FLAG["no_frames"]], np.uint16)}
    out["log_evidence"] = logs[used].sum(0)
    known = out["match_chi2"][~np.isnan(out["match_chi2"])]
    chi2 = float(known.max()) if known.size else 0.0
    found = ranking(out["log_evidence"], prior_none=float(made["none_prior"][0]))
    distance, contrast = made["distance"][order][used], made["contrast"][order][used]
    dark = contrast.sum(0) < SAME
    same = alike(distance, contrast, int(np.argmax(out["log_evidence"])), SAME) & ~dark
    out["candidate_class"] = np.where(dark, 2, np.where(same, 0, 1))
    reasons = 0
    if made["legacy"][0]:
        reasons |= FLAG["legacy"]
    elif found.none + found.probability[dark].sum() > 0.5:
        reasons |= FLAG["no_dislocation"]
    elif chi2 > float(made["misfit"][0]):
        reasons |= FLAG["misfit"]
    stated = not reasons & (FLAG["misfit"] | FLAG["legacy"])
    out["probability"] = found.probability if stated else unknown["probability"]
    out["none_probability"] = np.array([found.none if stated else np.nan])
    out["class_probability"] = np.array([found.probability[same].sum() if stated else np.nan])
    out["match_reason"] = np.array([reasons], np.uint16)
    return out


def microscope_of(name: str, lattice: Lattice) -> Microscope:
    """Microscope at the Bragg angle of a reflection of a cubic lattice.

    Raises
    ------
    InputError
        A lattice without cell or reflection, or a reflection that the energy cannot reach.
    """
    scope = find_microscope(name)
    if lattice.parameter is None or lattice.hkl is None:
        raise InputError("identify: lattice", "has no cell or no hkl", "give kind, parameter, x, z and hkl")
    if lattice.two_theta is not None:
        return replace(scope, theta=float(np.deg2rad(lattice.two_theta) / 2), eta=0.0)
    sine = 1e-4 * wavelength(scope.energy) * float(np.linalg.norm(lattice.hkl)) / (2 * lattice.parameter)
    if sine >= 1:
        raise InputError("identify: hkl", f"has no Bragg angle at {scope.energy:g} keV", "give a lower reflection")
    return replace(scope, theta=float(np.arcsin(sine)), eta=0.0)


def known_crystal(step: str, parameters: Any, positions: Any) -> None:
    """Refuse an unknown crystal."""
    lattice = parameters.get("lattice")
    if lattice is None:
        remedy = "give it with dfxm-dask calibrate STORE --lattice ... --hkl ..., or as the parameter lattice"
        raise InputError(f"{step}: lattice", "the store has no crystal", remedy)
    microscope_of(
        parameters.get("microscope", "id06_al111"), Lattice(**lattice) if isinstance(lattice, dict) else lattice
    )


@reduction(
    reads=(COUNTS, AXES, Y, X, Z),
    writes=WRITES,
    over=("y", "x", "scan"),
    combine=_joined,
    finish=_finish,
    group="identify",
    positions="common",
    fits=partial(known_crystal, "match"),
)
def match(
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    y: np.ndarray,
    x: np.ndarray,
    z: np.ndarray,
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
    peak: Annotated[
        float | None,
        Field(
            description="phi of the peak of the lattice; by default the middle of the half maxima of the mean rocking"
            " curve, or 0 if the scan does not cover the peak",
            json_schema_extra={"unit": "degree"},
        ),
    ] = None,
    strong: Annotated[
        float,
        Field(gt=0, le=1, description="frames that accept more of the perfect lattice than this are left out"),
    ] = 0.02,
    legacy: Annotated[
        bool, Field(description="rank by the published cross-correlation instead of the evidence")
    ] = False,
    proposals: Annotated[
        int | None,
        Field(
            ge=1,
            description="number of candidates that a trained network proposes, which alone are searched together with"
            " their opposites; by default all candidates are. The network is for {111} reflections of fcc aluminium",
        ),
    ] = None,
    none_prior: Annotated[
        float, Field(gt=0, lt=1, description="prior probability of a lattice without a dislocation")
    ] = 0.5,
    core_radius: Annotated[
        float, Field(ge=0, description="core radius of the field", json_schema_extra={"unit": "um"})
    ] = 0.001,
    sheet: Annotated[
        float | None,
        Field(
            gt=0,
            description="FWHM of the height of the light sheet; by default that of the microscope",
            json_schema_extra={"unit": "um"},
        ),
    ] = None,
    sheared: Annotated[
        bool,
        Field(description="sum the light sheet along the diffracted beam; false: along z, as dfxm-geo simulates it"),
    ] = True,
    poisson: Annotated[float, Field(gt=-1, lt=0.5, description="Poisson ratio")] = 0.334,
    tail: Annotated[float, Field(ge=0, le=1, description="Lorentzian fraction of the acceptance")] = 0.2,
    tail_width: Annotated[
        float,
        Field(gt=0, description="half width of the Lorentzian at half maximum", json_schema_extra={"unit": "degree"}),
    ] = 0.00143,
    angle_spread: Annotated[
        float,
        Field(gt=0, description="standard error of the peak of the lattice", json_schema_extra={"unit": "degree"}),
    ] = 0.00023,
    slope_spread: Annotated[
        float,
        Field(gt=0, description="change of the peak of the lattice per um", json_schema_extra={"unit": "degree/um"}),
    ] = 0.0002,
    gain: Annotated[float, Field(gt=0, description="counts of one photon", json_schema_extra={"unit": "count"})] = 2.14,
    offset: Annotated[float, Field(description="counts without light", json_schema_extra={"unit": "count"})] = 106.3,
    read_noise: Annotated[
        float, Field(gt=0, description="rms noise without light", json_schema_extra={"unit": "count"})
    ] = 12.0,
    blur: Annotated[
        float,
        Field(ge=0, description="standard deviation of the blur of the camera", json_schema_extra={"unit": "pixel"}),
    ] = 1.2,
    model_error: Annotated[
        float, Field(ge=0, le=1, description="rms error of the model as a fraction of the contrast")
    ] = 0.03,
    sampling: Annotated[
        float,
        Field(
            ge=0,
            description="rms distance of the points at which the model samples a pixel from those that represent it",
            json_schema_extra={"unit": "um"},
        ),
    ] = 0.001,
    pattern: Annotated[
        float,
        Field(
            gt=0,
            description="standard deviation of the level of a pixel that is the same in all frames, larger where the"
            " mean over the frames is conspicuous",
            json_schema_extra={"unit": "count"},
        ),
    ] = 2.0,
    brightness: Annotated[
        float | None,
        Field(
            gt=0,
            description="counts of the lattice at its peak in kinematic diffraction, within 20 %; by default unknown."
            " It separates lines whose images differ in contrast alone",
            json_schema_extra={"unit": "count"},
        ),
    ] = None,
    misfit: Annotated[
        float,
        Field(gt=1, description="squared residual per pixel over the variance above which no probability is stated"),
    ] = MISFIT,
) -> Arrays:
    """Burgers vector, line direction and slip plane of one dislocation, with the probability of every candidate.

    The scan, or the part in ``box``, shows one straight dislocation or none. Frames near the peak of the lattice, where
    the kinematic model does not hold, are left out. Position, brightness, background of every frame, and the local tilt
    of the lattice with its slopes are integrated out. Layers contribute independently: their log evidences add.
    Accuracy and calibration on simulated scans: see the manual.

    Returns
    -------
    dict
        Candidates that the scan does not distinguish from the best one have ``candidate_class`` 0; those of class 2
        have no contrast, like a lattice without a dislocation. ``probability`` is NaN where the best candidate leaves
        residuals beyond the noise (``match_reason``).

    Notes
    -----
    With the acceptance I of a candidate, brightness A, background B, gain g, offset o and read-out noise s, counts are
    normal numbers of mean and variance::

        m = A I + B,    v = g (m - o) + s² + (model_error A (I - I_flat))² + (sampling A |grad I|)²

    Rows and pixels have levels that all frames share, so that bright rows and warm pixels of the camera do not appear
    as a dislocation. I is the mean over 513 points of a pixel and of the light sheet at the core, where a line of
    little contrast bends the lattice enough within some 10 nm only. A search by correlation gives the position of every
    candidate; damped scoring refines those that may matter, and Laplace's method gives their evidence. Two candidates
    form one class if their expected counts differ by a chi2 of less than 16. With ``legacy``, ``log_evidence`` is the
    published correlation and no probability is stated.

    References
    ----------
    Catalogue and correlation: Borgi et al. (2025), J. Appl. Cryst. 58, 813. Evidence: our own definition.

    Examples
    --------
    A dark scan shows no dislocation.

    >>> import numpy as np
    >>> import dfxm_dask
    >>> from dfxm_dask.optics.defects.lattice import Lattice
    >>> lattice = Lattice(parameter=4.05e-4, x=(1, 0, -0.158), z=(0.158, 0, 1), hkl=(0, 0, 2))
    >>> counts = np.random.default_rng(0).normal(106, 12, (16, 12, 2))
    >>> axes = 0.04 * np.arange(16.0), 0.12 * np.arange(12.0), np.zeros(1)
    >>> made = dfxm_dask.match.kernel(counts, {"phi": np.array([-0.013, 0.013])}, *axes, lattice=lattice, angles=2)
    >>> made["log_evidences"].shape
    (1, 12)
    """
    known_crystal("match", {"microscope": microscope, "lattice": lattice}, {})
    known = Lattice(**lattice) if isinstance(lattice, dict) else lattice
    assert known is not None
    scope = microscope_of(microscope, known)
    if sheet is not None:
        scope = replace(scope, sheet=sheet / 2.355)
    crystal = catalogue(known.kind or "fcc", angles=angles)
    candidates, pairs = on_axes(crystal, known), opposite(crystal)
    sides = inside("match", y, box[:2] if box else None), inside("match", x, box[2:] if box else None)
    frames = np.moveaxis(counts.reshape(*counts.shape[:2], -1), -1, 0)[:, sides[0]][:, :, sides[1]]
    places = {name: np.deg2rad(values) for name, values in _positions(scan).items()}
    middle = peak_angle(frames, places["phi"]) if peak is None else np.deg2rad(peak)
    middle = 0.0 if np.isnan(middle) else middle
    places["phi"] = places["phi"] - middle
    at = setting(scope.theta)
    if not sheared:
        at = replace(at, shear=np.array([0.0, 0.0, 1.0]))
    options: dict[str, Any] = {"tail": tail, "tail_width": float(np.deg2rad(tail_width)), "poisson": poisson}
    thin = scan_optics(scope, at, places, heights=1, **options)
    weak = flat_images(thin) < strong * flat_images(thin._replace(shifts=np.zeros((1, 3))))[0]
    spread = float(np.deg2rad(angle_spread)), float(np.deg2rad(slope_spread))
    noise = Noise(gain, offset, read_noise, blur, model_error, sampling, pattern, *spread)
    table = line_tables(candidates, poisson, core_radius)
    own_y, own_x = y[sides[0]], x[sides[1]]
    seen = np.isfinite(frames[weak])
    if weak.sum() < 1 or seen.mean() < 0.1 or min(own_y.size, own_x.size) < 8:
        found, centre = _nothing(len(table)), np.full(2, np.nan)
    else:
        here, chosen = (
            np.where(_lit(frames[~weak], offset, read_noise, blur), frames[weak], np.nan),
            {name: values[weak] for name, values in places.items()},
        )
        pitch = abs(own_y[1] - own_y[0]), abs(own_x[1] - own_x[0])
        records = []
        for size, count in ((PITCH, HEIGHTS), (COARSE, COARSE_HEIGHTS)):
            bins = max(1, round(size / pitch[0])), max(1, round(size / pitch[1]))
            of_bin = bins[0] * pitch[0], bins[1] * pitch[1]
            optics = scan_optics(
                scope, at, chosen, pitch=of_bin, heights=count[0], dense=count[1], core=count[2], **options
            )
            records.append(record_of(here, own_y, own_x, optics, noise, bins, brightness))
        fine, coarse = records
        if proposals and not legacy:
            # The network requires one phi scan: the one nearest to the peak along the other axes.
            still = np.ones(len(frames), bool)
            for name in places.keys() - {"phi"}:
                still &= np.isclose(places[name], places[name][np.argmin(np.abs(places[name]))], atol=1e-9)
            lit = np.where(_lit(frames[~weak], offset, read_noise, blur), frames, np.nan)[still]
            first = propose(
                lit, places["phi"][still], pitch, known, microscope=microscope, angles=angles, top=proposals
            )
            found = evidences_of(fine, coarse, table, pairs, first)
        else:
            found = correlations(coarse, table) if legacy else evidences(fine, coarse, table, pairs)
        centre = np.array([own_y[0] + own_y[-1], own_x[0] + own_x[-1]]) / 2
    made = _summary(candidates, pairs, found, centre, float(np.mean(z)), np.rad2deg(middle), none_prior, misfit)
    return made | {"legacy": np.array([legacy])}


def _lit(strong: np.ndarray, offset: float, read_noise: float, blur: float) -> np.ndarray:
    """Whether pixels (y, x) and all within the blur diffract near the peak of the lattice; all, if it is not scanned.

    The brightness falls gradually at a face of the crystal, which would appear as a dislocation.
    """
    if not len(strong):
        return np.ones(strong.shape[1:], bool)
    valid = np.isfinite(strong)
    light = np.where(valid, strong - offset, 0.0).sum(0) / np.maximum(valid.sum(0), 1)
    middle = np.median(light)
    if middle <= 3 * read_noise:
        return np.ones(light.shape, bool)
    steps = max(1, int(np.ceil(3 * blur)))
    return ndimage.binary_erosion(light > LIT * middle, np.ones((3, 3)), iterations=steps, border_value=1)


def inside(step: str, values: np.ndarray, limits: list[float] | None) -> np.ndarray:
    """Numbers of the pixels between two limits; all without limits."""
    if limits is None:
        return np.arange(values.size)
    chosen = np.flatnonzero((values >= min(limits)) & (values <= max(limits)))
    if chosen.size < 8:
        found = f"contains {chosen.size} pixels of {values.min():.4g} to {values.max():.4g} um"
        raise InputError(f"{step}: box {limits}", found, "give um that enclose at least 8 pixels along y and x")
    return chosen


def _positions(scan: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Angles (frame,) of all frames, degree; axes that do not turn the crystal do not matter."""
    grids = np.meshgrid(*scan.values(), indexing="ij")
    out = {name: grid.ravel() for name, grid in zip(scan, grids, strict=True) if name in ("phi", "chi", "two_theta")}
    return {"phi": np.zeros(grids[0].size)} | out


def _nothing(count: int) -> Evidence:
    missing = np.full(count, np.nan)
    pairs = np.full((count, 2), np.nan)
    return Evidence(missing, pairs, pairs, np.nan, 0, missing, missing, np.zeros(count, bool))


def _summary(
    candidates: Candidates,
    pairs: np.ndarray,
    found: Evidence,
    centre: np.ndarray,
    z: float,
    peak: float,
    none_prior: float,
    misfit: float,
) -> Arrays:
    """Summary of one layer."""
    return {
        "burgers": candidates.burgers,
        "line": candidates.line,
        "plane_normal": candidates.plane_normal,
        "line_angle": candidates.angle,
        "opposite": pairs,
        "log_evidences": found.log_evidence[None],
        "distance": found.distance[None],
        "contrast": found.contrast[None],
        "line_position": (found.position + centre)[None],
        "line_position_error": found.position_error[None],
        "match_chi2": np.array([found.chi2 if found.lit else np.nan]),
        "match_peak": np.array([peak]),
        "layer_z": np.array([z]),
        "none_prior": np.array([none_prior]),
        "misfit": np.array([misfit]),
    }
