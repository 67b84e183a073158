"""Results on the boundaries of a volume: their tables as arrays, and sentences with errors."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from dfxm_dask.boundaries.characterise import WRITES
from dfxm_dask.boundaries.junction import KINDS
from dfxm_dask.boundaries.planes.plane import in_plane
from dfxm_dask.boundaries.step import REASONS
from dfxm_dask.view.figures.maps import finer_units, symbol

if TYPE_CHECKING:
    import xarray as xr

Tables = dict[str, np.ndarray]

MOST = 8
"""Boundaries that have a page and an entry in the key (our choice); a sentence states how many more there are."""
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#7a3e9d", "#8c510a")
NONE = "#b8b8b8"
STYLES = ("-", "--")
"""Of families of lines, strongest first."""

REASON_WORDS = {
    "too_few_layers": "Too few layers cross the boundary to test its step",
    "no_step": "The centre of mass shows no clear step across the boundary",
    "turned": "The fitted step lies more than 20° from the plane of the weak beam, so it was not used",
    "overtone": "The spacing of a line family may be twice the stated one",
    "end_of_range": "The strongest period of a line family lies at the end of the searched range, so it is not stated",
    "aliased": "Layers lie too far apart to distinguish two directions of a line family",
    "weak_beam_place": "The plane comes from weak-beam images, which lie up to 0.5 µm beside the boundary",
    "faint_step": "The step is less certain than that of most boundaries, and no weak-beam plane proposes it: a single"
    " dislocation may look like this",
    "wide_step": "The step is wider than that of one boundary usually is: two boundaries may lie close together here",
    "curved": "The boundary is curved: its normal and position are those of the mean plane",
}


def reasons_of(found: Tables, k: int) -> list[str]:
    """Names of the reasons why numbers of a boundary are unknown or less certain; empty without a reason."""
    value = int(found["reason"][k])
    return [name for bit, name in REASONS if value > 0 and value & bit]


def reason_words(found: Tables, k: int) -> list[str]:
    """A sentence for each reason of a boundary."""
    return [f"{REASON_WORDS.get(name, name.replace('_', ' '))}." for name in reasons_of(found, k)]


def step_words(found: Tables, k: int) -> str:
    """Step of the centre of mass across a boundary."""
    if not np.isfinite(found["step"][k]):
        return f"Boundary {k}: no step of the centre of mass was fitted."
    size = finer(found["step"][k], found["step_error"][k], "degree")
    width = with_error(found["step_width"][k], np.nan, "um")
    return (
        f"Boundary {k}: the centre of mass steps by {size} towards the normal, over {width} (standard deviation);"
        f" standard error of its position {found['offset_error'][k]:.2g} µm."
    )


def junction_kind(found: Tables, j: int) -> str:
    """Kind of a junction: ``ends_meet``, ``ends_on``, ``crossing``; empty where the table does not record it."""
    value = int(found["junction_kind"][j])
    return next((name for bit, name in KINDS if value == bit), "")


def junction_words(found: Tables, k: int) -> list[str]:
    """A sentence for each line in which a boundary meets or crosses others."""
    said = []
    for j, halves in enumerate(found["junction_boundary"]):
        if k not in halves:
            continue
        halves = halves[halves >= 0]
        others = [str(n) for n in sorted({int(h) for h in halves} - {k})]
        names = f"boundar{'y' if len(others) == 1 else 'ies'} {' and '.join(others)}"
        line = f"in a line along {vector_words(found['junction_direction'][j])}"
        kind = junction_kind(found, j)
        if kind == "crossing":
            said.append(
                f"It crosses {names} {line}; no end of either was detected there, so the line is not a junction."
            )
            continue
        single = {int(h) for h in halves if (halves == h).sum() == 1}
        if kind == "ends_on" and len(single) == 1:
            (ending,) = single
            said.append(f"It ends on {names} {line}." if ending == k else f"Boundary {ending} ends on it {line}.")
        else:
            said.append(f"It meets {names} {line}.")
        angles = [
            f"{int(one)} to {int(halves[(h + 1) % len(halves)])},"
            f" {with_error(found['dihedral'][j, h], found['dihedral_error'][j, h], 'degree')}"
            for h, one in enumerate(halves)
        ]
        said[-1] += f" Dihedral angles: {'; '.join(angles)}."
    return said


def tables_of(tree: xr.DataTree) -> Tables | None:
    """The tables of the group ``boundaries`` by name; None without this group.

    Notes
    -----
    A table that the group lacks is filled with NaN, or with -1 for integers: unknown.
    """
    if "boundaries" not in tree:
        return None
    found = tree["boundaries"].dataset
    if not {"normal", "centre", "point"} <= set(map(str, found.variables)):
        return None
    out: Tables = {}
    for variable in WRITES:
        if variable.name in found.variables:
            out[variable.name] = np.asarray(found[variable.name])
        else:
            none = dict.fromkeys(("junction", "half", "line_observation", "candidate"), 0)
            sizes = {"xyz": 3, "vertex": 4, "family": len(STYLES), **none, **found.sizes}
            nothing = -1 if variable.dtype == "int64" else np.nan
            out[variable.name] = np.full([sizes[dim] for dim in variable.dims], nothing)
    return out


def with_error(value: float, error: float, units: str) -> str:
    """A value with its error: two digits of the error, and as many decimals of the value.

    Examples
    --------
    >>> with_error(4.1234, 0.0312, "um"), with_error(-4.1234, np.nan, "um"), with_error(np.nan, 1.0, "um")
    ('4.123 ± 0.031 µm', '−4.12 µm', 'not known')
    """
    if not np.isfinite(value):
        return "not known"
    unit = symbol(units)
    unit = f" {unit}" if unit and unit != "°" else unit
    if not np.isfinite(error):
        return f"{value:.3g}{unit}".replace("-", "−")
    if not 0 < error < 1000:
        return f"{value:.3g} ± {error:.2g}{unit}".replace("-", "−")
    decimals = max(0, 1 - int(np.floor(np.log10(error))))
    return f"{value:.{decimals}f} ± {error:.{decimals}f}{unit}".replace("-", "−")


def finer(value: float, error: float, units: str) -> str:
    """As :func:`with_error`, in a unit in which it is a short number."""
    factor, shorter = finer_units(abs(value), units)
    return with_error(factor * value, factor * error, shorter)


def vector_words(vector: np.ndarray, digits: int = 3) -> str:
    """``(0.736, −0.662, 0.141)``"""
    rounded = np.round(vector, digits) + 0.0  # no −0
    return f"({', '.join(f'{v:.{digits}f}' for v in rounded)})".replace("-", "−")


def normal_words(found: Tables, k: int) -> str:
    """Normal of a boundary with the radius that contains the true normal with 68 % probability."""
    error = float(found["normal_error"][k])
    spread = f" ± {error:.2g}°" if np.isfinite(error) else ""
    return f"{vector_words(found['normal'][k])}{spread}"


def families_of(found: Tables, k: int) -> list[int]:
    """Families of lines of a boundary whose direction is known; a single line has no period."""
    return [int(f) for f in np.flatnonzero(np.isfinite(found["line"][k]).all(axis=-1))]


def boundary_words(found: Tables, k: int) -> list[str]:
    """Sentences on the results of a boundary; the first is a summary.

    Parameters
    ----------
    found : dict
        See :func:`tables_of`.
    k : int
        Number of the boundary.
    """
    first, second = in_plane(found["normal"][k])
    said = [
        f"Boundary {k}: normal {normal_words(found, k)}, thickness {with_error(found['thickness'][k], np.nan, 'um')}.",
        f"u runs along {vector_words(first)}, v along {vector_words(second)}; the normal points towards the reader, and"
        f" the centre lies at {vector_words(found['centre'][k], 2)} µm.",
    ]
    families = families_of(found, k)
    if not families:
        said.append(
            "Lines: no direction exceeds the limit from layers shifted at random, so period and Burgers vectors are"
            " not known."
        )
    for f in families:
        count = int(found["lines"][k, f])
        located = f", {count} located one by one" if count >= 0 else ""
        gap = with_error(found["gap"][k, f], found["gap_error"][k, f], "um")
        error = with_error(found["line_error"][k, f], np.nan, "degree")
        contrast = found["contrast"][k, f]
        twice = " or twice that" if found["spacing_overtone"][k, f] == 1 else ""
        if np.isfinite(found["spacing_alias"][k, f]):
            along = vector_words(found["line_alias"][k, f])
            twice += f" (or lines along {along} every {with_error(found['spacing_alias'][k, f], np.nan, 'um')})"
        said.append(
            f"Family {f + 1}: lines along {vector_words(found['line'][k, f])}, error in the plane {error}; period"
            f" {with_error(found['spacing'][k, f], found['spacing_error'][k, f], 'um')}{twice}"
            f"{f', contrast {contrast:.2g}' if np.isfinite(contrast) else ''}{located}, mean gap {gap}."
        )
    if families:
        said.append(_burgers_words(found, k, families))
    return [*said, _peak_words(found, k), *junction_words(found, k), *reason_words(found, k)]


def _burgers_words(found: Tables, k: int, families: list[int]) -> str:
    vectors = found["burgers"][k][families]
    if not np.isfinite(vectors).all():
        return "Burgers vectors: not known; they require the spacing of the lines and a lattice."
    said = " and ".join(vector_words(1e3 * vector) for vector in vectors)  # um to nm
    following = with_error(found["burgers_next"][k], np.nan, "degree")
    rule = (
        f"Burgers vectors that satisfy Frank's rule best: {said} nm, with a misfit of"
        f" {with_error(found['burgers_misfit'][k], np.nan, 'degree')}; the next best have {following}."
    )
    sign = float(found["burgers_sign_probability"][k])
    if not np.isfinite(sign):
        return rule
    chances = " and ".join(f"{chance:.2f}" for chance in found["burgers_probability"][k][families].max(axis=-1))
    words = f"Most probable Burgers vectors: {said} nm, with probability {chances} ({sign:.2f} for their sign)."
    products = [
        f"{found['g_dot_b'][k, f]:.2g} ({found['g_dot_b_probability'][k, f]:.2f})"
        for f in families
        if np.isfinite(found["g_dot_b"][k, f])
    ]
    if products:
        words += f" Product g·b, with its probability: {' and '.join(products)}.".replace("-", "−")
    return words


def _peak_words(found: Tables, k: int) -> str:
    step = "The jump of the local peak across it is not known."
    if np.isfinite(found["peak_step"][k]):
        size = finer(found["peak_step"][k], found["peak_step_error"][k], "degree")
        step = f"The local peak jumps by {size} towards the normal."
    turn = float(found["misorientation"][k])
    if not np.isfinite(turn):
        return f"{step} The rotation by Frank's rule is not known."
    expected = finer(float(found["peak_step_expected"][k]), float(found["step_expected_error"][k]), "degree")
    error = float(found["misorientation_error"][k])
    size = finer(float(np.rad2deg(turn)), float(np.rad2deg(error)), "degree")
    turned = with_error(1e6 * turn, 1e6 * error, "µrad")
    return (
        f"{step} By Frank's rule the lattice rotates by {turned} ({size}; {found['twist'][k]:.2g} on a scale from"
        f" tilt, 0, to twist, 1), which corresponds to a jump of {expected}."
    )


def colour_of(k: int) -> str:
    """Colour of a boundary by its number; grey for none, -1."""
    return NONE if k < 0 else COLOURS[k % len(COLOURS)]
