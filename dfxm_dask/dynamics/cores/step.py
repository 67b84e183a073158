"""Positions of dislocation cores in every frame of a movie, by the forward model."""

from __future__ import annotations

from typing import Annotated, Any

import numpy as np
from pydantic import Field

from dfxm_dask.dynamics.cores.model import (
    FLAT,
    MOST_CORES,
    STUDY,
    Camera,
    Nuisances,
    line_rows,
    locate_cores,
    microscope_optics,
    study_optics,
    window_of,
)
from dfxm_dask.dynamics.cores.posterior import FLAG, NUISANCES, REASONS
from dfxm_dask.dynamics.cores.sampling import sampling_covariance
from dfxm_dask.errors import InputError
from dfxm_dask.optics.core_image import CHARACTERS
from dfxm_dask.optics.defects.lattice import KINDS, Lattice, axes_of
from dfxm_dask.optics.line_images import Optics
from dfxm_dask.reduction import Arrays, reduction
from dfxm_dask.schema import COUNTS, Dim, Variable, X, Y

DETECTION, CORE = ("detection",), "core"
FRAME = Variable("frame", DETECTION, "int64", "1", "number of the frame of a detection")
ROW = Variable("row", DETECTION, "float64", "pixel", "row of a detection")
COLUMN = Variable("column", DETECTION, "float64", "pixel", "column of a detection")
AXIS, OTHER, CHARACTER = Dim("axis", 2), Dim("axis2", 2), Dim("character")
WRITES = (
    Variable("position", (CORE, AXIS), "float64", "um", "position of a core along y and x"),
    Variable("position_covariance", (CORE, AXIS, OTHER), "float64", "um2", "covariance of the position of a core"),
    Variable("log_evidence", (CORE, CHARACTER), "float64", "1", "logarithm of the evidence of a character"),
    Variable("core_character", (CORE,), "int64", "1", "number of the most probable character, from 0"),
    Variable(
        "core_plane", (CORE, OTHER, AXIS), "float64", "1", "components of y and x along e1 and n, across the line"
    ),
    Variable(
        "core_possible", (CORE, CHARACTER), "bool", "1", "character that the image does not exclude (log evidence)"
    ),
    Variable("core_ties", (CORE,), "int64", "1", "number of further characters that the image does not exclude"),
    Variable("core_frame", (CORE,), "int64", "1", "number of the frame of a core"),
    Variable("core_detection", (CORE,), "int64", "1", "number of the detection of a core, -1 without detections"),
    Variable("core_chi2", (CORE,), "float64", "1", "squared residual per pixel over the variance"),
    Variable("core_tilt", (CORE,), "float64", "degree", "rotation of the lattice at a core about the rocking axis"),
    Variable("core_brightness", (CORE,), "float64", "count", "counts of fully accepted lattice at a core"),
    Variable("core_background", (CORE,), "float64", "count", "background counts at a core"),
    Variable("locate_reason", (CORE,), "uint16", "1", "reasons for a missing position or error", flags=REASONS),
)
ALL, WINDOW, PRIOR = list[int](), [0.6, 1.5], [0.15, 0.4]
REFUSED = ("model_does_not_fit", "several_optima", "end_of_prior", "not_converged", "too_many_overlaps")


def _joined(first: Arrays, second: Arrays) -> Arrays:
    return {name: np.concatenate([first[name], second[name]]) for name in first}


def _groups(rows: np.ndarray, columns: np.ndarray, near: tuple[float, float]) -> list[tuple[list[int], bool]]:
    """Detections that are located together, and whether all of their overlaps are.

    Chains of up to MOST_CORES detections are located once; in longer ones each detection, the first of its group, with
    its nearest neighbours.
    """
    distance = np.hypot((rows[:, None] - rows) / near[0], (columns[:, None] - columns) / near[1])
    left, out = set(range(len(rows))), []
    while left:
        chain = [min(left)]
        for k in chain:
            chain += [int(j) for j in np.flatnonzero(distance[k] < 1) if j not in chain]
        left -= set(chain)
        if len(chain) <= MOST_CORES:
            out.append((chain, True))
        else:
            out += [([int(j) for j in np.argsort(distance[k], kind="stable")[:MOST_CORES]], False) for k in chain]
    return out


def _table(lattice: Lattice, wanted: list[list[float]] | None, core: float) -> np.ndarray:
    """Possible lines of a crystal in the axes of the store; by default all visible screws of both signs."""
    if wanted is None:
        both = np.array([[b, -b] for b in KINDS[lattice.kind or "fcc"]]).reshape(-1, 3)
        every = np.stack([2 * both, np.repeat(both[::2], 2, axis=0)], axis=1)
        if lattice.hkl is not None:
            every = every[np.abs(both @ lattice.hkl) > 1e-6]
    else:
        if any(len(one) != 6 for one in wanted):
            raise InputError("locate: lines", "have rows that are not 6 numbers", "give b and t as Miller indices")
        every = np.asarray(wanted, np.float64).reshape(-1, 2, 3)
    turned = every @ axes_of(lattice).T
    if wanted is None:  # a line close to the plane of the image has no one position
        lengths = np.linalg.norm(turned[:, 1], axis=-1)
        turned = turned[np.abs(turned[:, 1, 2]) > FLAT * lengths]
    if not len(turned):
        raise InputError("locate: lines", "no visible screw crosses the light sheet", "give lines")
    return line_rows(0.5 * (lattice.parameter or np.nan) * turned[:, 0], turned[:, 1], core=core)


def _fits(parameters: Any, positions: Any) -> None:
    """Refuse an unknown crystal or angle."""
    if parameters.get("microscope") == STUDY:
        return
    lattice = parameters.get("lattice")
    if lattice is None:
        remedy = "give it with dfxm-dask calibrate STORE --lattice ... --hkl ..., or as the parameter lattice"
        raise InputError("locate: lattice", "the store has no crystal", remedy)
    vectors = lattice.get("vectors") if isinstance(lattice, dict) else lattice.vectors
    if vectors is not None:
        raise InputError("locate: lattice", "has vectors without a cell", "give lattice with parameter, x and z")
    if parameters.get("angle") is None:
        remedy = "give it in degree: the rocking angle of the frames minus that of the peak"
        raise InputError("locate: angle", "is unknown", remedy)


@reduction(
    reads=(COUNTS, Y, X),
    may_read=(FRAME, ROW, COLUMN),
    writes=WRITES,
    over=("y", "x"),
    combine=_joined,
    finish=dict,
    group="dynamics",
    min_axes=0,
    positions="unused",
    fits=_fits,
)
def locate(
    counts: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    frame: np.ndarray | None = None,
    row: np.ndarray | None = None,
    column: np.ndarray | None = None,
    *,
    first: int = 0,
    microscope: Annotated[
        str, Field(description="name of the microscope; brennan_al002: the localisation study with 12 characters")
    ] = "id06_al111",
    legacy: Annotated[
        bool, Field(description="use the published model of the localisation study with its errors")
    ] = False,
    lattice: Annotated[
        Lattice | None,
        Field(
            description="crystal: {parameter: um, x: [h, k, l], z: [h, k, l], hkl: [h, k, l]}, with the crystal"
            " directions along axes x and z; by default the crystal recorded in the store"
        ),
    ] = None,
    lines: Annotated[
        list[list[float]] | None,
        Field(
            description="possible dislocations: Miller indices of the Burgers vector (in a/2) and of the line; "
            "by default all visible screws"
        ),
    ] = None,
    characters: Annotated[
        list[int], Field(description="characters of the localisation study to compare, 1 to 12; empty: all")
    ] = ALL,
    angle: Annotated[
        float | None,
        Field(
            description="rocking angle of the frames minus the peak of the lattice",
            json_schema_extra={"unit": "degree"},
        ),
    ] = None,
    angle_spread: Annotated[
        float,
        Field(ge=0, description="local variation of the peak of the lattice", json_schema_extra={"unit": "degree"}),
    ] = 0.0012,
    slope_spread: Annotated[
        float,
        Field(ge=0, description="change of the peak of the lattice per um", json_schema_extra={"unit": "degree/um"}),
    ] = 0.0002,
    core_radius: Annotated[
        float, Field(ge=0, description="core radius of the field", json_schema_extra={"unit": "um"})
    ] = 0.001,
    tail: Annotated[float, Field(ge=0, le=1, description="Lorentzian fraction of the acceptance")] = 0.2,
    tail_width: Annotated[
        float,
        Field(gt=0, description="half width of the Lorentzian at half maximum", json_schema_extra={"unit": "degree"}),
    ] = 0.00143,
    sheet: Annotated[
        float | None,
        Field(
            gt=0,
            description="FWHM of the height of the light sheet; by default that of the microscope",
            json_schema_extra={"unit": "um"},
        ),
    ] = None,
    heights: Annotated[int, Field(ge=1, le=64, description="heights in the light sheet")] = 5,
    divisions: Annotated[
        int, Field(ge=1, le=8, description="points of a pixel along each side, over which the model averages")
    ] = 1,
    window: Annotated[
        list[float],
        Field(
            min_length=2,
            max_length=2,
            description="half height and half width of the window around a detection",
            json_schema_extra={"unit": "um"},
        ),
    ] = WINDOW,
    prior: Annotated[
        list[float],
        Field(
            min_length=2,
            max_length=2,
            description="half widths of the prior along y and x around a detection, or around the middle of the frame",
            json_schema_extra={"unit": "um"},
        ),
    ] = PRIOR,
    scale: Annotated[
        float | None,
        Field(
            gt=0,
            description="known counts of fully accepted lattice; by default fitted",
            json_schema_extra={"unit": "count"},
        ),
    ] = None,
    background: Annotated[
        float | None,
        Field(description="known background; by default fitted", json_schema_extra={"unit": "count"}),
    ] = None,
    gain: Annotated[float, Field(gt=0, description="counts of one photon", json_schema_extra={"unit": "count"})] = 2.14,
    offset: Annotated[float, Field(description="counts without light", json_schema_extra={"unit": "count"})] = 104.0,
    read_noise: Annotated[
        float, Field(ge=0, description="rms noise without light", json_schema_extra={"unit": "count"})
    ] = 9.0,
    blur: Annotated[
        float,
        Field(ge=0, description="standard deviation of the blur of the camera", json_schema_extra={"unit": "pixel"}),
    ] = 1.2,
    model_error: Annotated[
        float, Field(ge=0, le=1, description="rms error of the model as a fraction of the counts above the background")
    ] = 0.03,
    sampling: Annotated[
        float,
        Field(
            ge=0,
            le=0.3,
            description="rms distance of the points at which pixels sample a blurred image from their centres; without "
            "blur nothing is added",
            json_schema_extra={"unit": "pixel"},
        ),
    ] = 0.12,
    position_floor: Annotated[
        float,
        Field(
            ge=0,
            description="rms error of y and x of a core from effects outside the model, added to the covariance",
            json_schema_extra={"unit": "um"},
        ),
    ] = 0.003,
    seed: Annotated[int, Field(ge=0, description="seed of the sampling for overlapping cores")] = 0,
) -> Arrays:
    """Positions of dislocation cores below the size of a pixel, with covariance and evidence of the character.

    Every detection of a movie is located in a window around it; detections with overlapping windows are located
    together, up to three at once, because their fields superpose. Without detections, one core is located in every
    frame. Local background, brightness, tilt of the lattice and its slopes are fitted and integrated out.

    Returns
    -------
    dict
        Where ``locate_reason`` is not zero the covariance may be NaN: the model does not describe the image, several
        optima share the posterior, the posterior reaches an end of the prior, or the sampling did not converge.

    Notes
    -----
    Forward model: q of the superposed fields, accepted by the microscope and summed over the light sheet. With the
    signal F at full counts, background B, gain g, offset o and read-out noise s, counts are normal numbers of mean and
    variance::

        m = F + B,    v = g (m - o) + s² + (model_error F)²

    Camera and tail have the values of the PCO Edge camera of ID03 at 0.2 s and of the simulator: give your own. By
    default the candidates are screws of both signs of every visible Burgers vector of the lattice.

    Posterior mean and covariance by quadrature over the position (one core) or importance sampling (several), around
    every optimum of damped scoring from a complete search on a quarter of a pixel.

    References
    ----------
    Brennan (2022) for one edge core and a known character; extended here.

    Examples
    --------
    An empty frame has no core; its interval is refused.

    >>> import numpy as np
    >>> import dfxm_dask
    >>> place, frames = 0.075 * np.arange(-5.0, 6.0), np.ones((11, 11, 1))
    >>> made = dfxm_dask.locate.kernel(frames, place, place, microscope="brennan_al002", characters=[1], blur=0)
    >>> bool(np.isnan(made["position_covariance"]).all())
    True
    """
    _fits({"microscope": microscope, "lattice": lattice, "angle": angle}, {})
    if isinstance(lattice, dict):
        lattice = Lattice(**lattice)
    pitch = abs(float(y[1] - y[0])), abs(float(x[1] - x[0]))
    if microscope == STUDY or lattice is None:
        optics, table = study_optics(legacy, divisions)
        wanted = [c for c in characters or range(1, len(CHARACTERS) + 1)]
        if not all(1 <= c <= len(CHARACTERS) for c in wanted):
            raise InputError(
                f"locate: characters {characters}", "are not all from 1 to 12", "give numbers of the table"
            )
        table = table[np.array(wanted) - 1]
    else:
        optics = microscope_optics(
            microscope,
            pitch,
            angle=np.deg2rad(angle or 0.0),
            tail=tail,
            tail_width=np.deg2rad(tail_width),
            heights=heights,
            divisions=divisions,
            sheet=None if sheet is None else sheet / 2.355,
        )
        table = _table(lattice, lines, core_radius)
    camera = Camera(gain, offset, read_noise, model_error, blur)
    shared = Nuisances(
        (0.0, np.deg2rad(angle_spread)),
        float(np.deg2rad(slope_spread)),
        None if scale is None else (scale, 0.0),
        None if background is None else (background, 0.0),
    )
    half = np.array(prior)
    rows: list[tuple] = []
    for number in range(counts.shape[-1]):
        image = np.asarray(counts[..., number], np.float64)
        if frame is None or row is None or column is None:
            middle = np.array([[(y[0] + y[-1]) / 2, (x[0] + x[-1]) / 2]])
            made = _located(
                image, y, x, middle, (np.inf, np.inf), half, optics, table, camera, shared, seed, True, sampling
            )
            rows.append((first + number, -1, *made[0]))
            continue
        mine = np.flatnonzero(frame == first + number)
        at = np.stack([np.interp(row[mine], np.arange(y.size), y), np.interp(column[mine], np.arange(x.size), x)], -1)
        found: dict[int, tuple] = {}
        for group, whole in _groups(row[mine] * pitch[0], column[mine] * pitch[1], (2 * window[0], 2 * window[1])):
            reach = (window[0], window[1])
            made = _located(image, y, x, at[group], reach, half, optics, table, camera, shared, seed, whole, sampling)
            found |= dict(zip(group, made, strict=True)) if whole else {group[0]: made[0]}
        rows += [(first + number, int(mine[k]), *found[k]) for k in range(len(mine))]
    columns = _columns(rows, table)
    columns["position_covariance"] += position_floor**2 * np.eye(2)
    return columns


def _located(
    image: np.ndarray,
    y: np.ndarray,
    x: np.ndarray,
    at: np.ndarray,
    reach: tuple[float, float],
    half: np.ndarray,
    optics: Optics,
    table: np.ndarray,
    *known: Any,
) -> list[tuple]:
    """Result of every core of a group: position, covariance, evidence, character, chi2, nuisances, flags."""
    cores = len(at)
    inside_y = np.flatnonzero((y > at[:, 0].min() - reach[0]) & (y < at[:, 0].max() + reach[0]))
    inside_x = np.flatnonzero((x > at[:, 1].min() - reach[1]) & (x < at[:, 1].max() + reach[1]))
    characters = np.full(len(table), np.nan), -1, np.zeros(len(table), bool)
    nothing = np.full(2, np.nan), np.full((2, 2), np.nan), *characters, np.nan
    part = image[np.ix_(inside_y, inside_x)]
    if inside_y.size < 5 or inside_x.size < 5 or np.isfinite(part).sum() < 25:
        return [(*nothing, np.full(NUISANCES, np.nan), FLAG["no_window"])] * cores
    box = np.stack([(at - half).ravel(), (at + half).ravel()])
    window = window_of(part, y[inside_y], x[inside_x], optics, box, *known[:2])
    try:
        found = locate_cores(window, table, cores, seed=known[2])
    except np.linalg.LinAlgError:
        return [(*nothing, np.full(NUISANCES, np.nan), FLAG["not_converged"])] * cores
    best = found.best
    flags = best.flags | FLAG["invalid_pixels"] * (not window.valid.all()) | FLAG["too_many_overlaps"] * (not known[3])
    refused = any(flags & FLAG[name] for name in REFUSED)
    whole = best.covariance
    if known[4] and not refused and window.blur_y.size > 1:
        whole = whole + sampling_covariance(window, table[list(found.characters)], best, known[4])
    out = []
    for k in range(cores):
        covariance = whole[2 * k : 2 * k + 2, 2 * k : 2 * k + 2]
        lost = flags & (FLAG["not_converged"] | FLAG["end_of_prior"])
        position = np.full(2, np.nan) if lost else best.position[k]
        covariance = np.full((2, 2), np.nan) if refused else covariance
        of_core = found.log_evidence, found.characters[k], found.possible[k]
        tied = FLAG["ambiguous_character"] * (found.possible[k].sum() > 1)
        out.append((position, covariance, *of_core, best.chi2, best.nuisances, flags | int(tied)))
    return out


def _columns(rows: list[tuple], table: np.ndarray) -> Arrays:
    """Rows as the declared arrays; ``table`` contains e1 and n of every character."""
    n, characters = len(rows), len(table)
    columns = list(zip(*rows, strict=True)) if n else [()] * 10
    frame, detection, position, covariance, evidence, character, possible, chi2, nuisances, flags = columns
    admitted = np.array(possible, bool).reshape(n, characters)
    shared = np.array(nuisances, np.float64).reshape(n, NUISANCES)
    number = np.array(character, np.int64)
    plane = table[number][:, [[1, 0], [4, 3]]] if n else np.zeros((0, 2, 2))
    return {
        "position": np.array(position, np.float64).reshape(n, 2),
        "position_covariance": np.array(covariance, np.float64).reshape(n, 2, 2),
        "log_evidence": np.array(evidence, np.float64).reshape(n, characters),
        "core_character": number,
        "core_plane": np.where(number[:, None, None] >= 0, plane, np.nan),
        "core_possible": admitted,
        "core_ties": np.maximum(admitted.sum(axis=1) - 1, 0),
        "core_frame": np.array(frame, np.int64),
        "core_detection": np.array(detection, np.int64),
        "core_chi2": np.array(chi2, np.float64),
        "core_tilt": np.rad2deg(shared[:, 0]),
        "core_brightness": shared[:, 3],
        "core_background": shared[:, 4],
        "locate_reason": np.array(flags, np.uint16),
    }
