"""The vocabulary of a store: dimensions, variables, units, and the version of the layout.

A :class:`Variable` says once what an array is called, how it is shaped, and in which unit it is counted. Names may
carry the templates ``{axis}`` (once per scan axis) and ``{axis}_{other}`` (once per pair of scan axes); the
dimension ``scan`` stands for all scan axes of the scan at hand, in storage order.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from dfxm_dask.errors import InputError, StoreError

SCHEMA_VERSION = 1
SPACE = ("z", "y", "x")
SCAN = "scan"
KNOWN_AXES = ("phi", "chi", "two_theta", "energy")
PATCH = 64


@dataclass(frozen=True)
class Variable:
    """One named array.

    Parameters
    ----------
    name : str
        Name in its group; may contain ``{axis}`` and ``{other}``.
    dims : tuple of str
        Dimensions in storage order; ``scan`` stands for every scan axis.
    dtype : str
        numpy dtype name. An input may have any dtype that holds this one without loss.
    units : str
        UDUNITS spelling ("count", "degree", "um", "1"); may contain ``{units}`` (and ``{other_units}``), the units of
        the scan axes.
    long_name : str
        One line for figures and documentation.
    flags : tuple of (int, str)
        For a CF flag variable: mask and meaning of each bit.
    stored : bool
        False for an array that only lives between the steps of one pass (such as cleaned counts).
    """

    name: str
    dims: tuple[str, ...]
    dtype: str
    units: str
    long_name: str
    flags: tuple[tuple[int, str], ...] = ()
    stored: bool = True

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes in CF style, as written to the store."""
        attrs: dict[str, Any] = {"units": self.units, "long_name": self.long_name}
        if self.flags:
            attrs["flag_masks"] = [mask for mask, _ in self.flags]
            attrs["flag_meanings"] = " ".join(meaning for _, meaning in self.flags)
        return attrs

    @property
    def template(self) -> bool:
        """Whether the name stands for one variable per scan axis (or pair of axes)."""
        return "{axis}" in self.name

    @property
    def fill_value(self) -> float | int | bool:
        """What a missing block reads as: NaN where the dtype has one. Zero of an integer map is never trusted alone."""
        kind = np.dtype(self.dtype).kind
        return float("nan") if kind == "f" else False if kind == "b" else 0


COUNTS = Variable("counts", ("z", SCAN, "y", "x"), "uint16", "count", "detector counts")
AXES = Variable(SCAN, (SCAN,), "float64", "", "positions along every scan axis")
X = Variable("x", ("x",), "float64", "um", "position along x")
Y = Variable("y", ("y",), "float64", "um", "position along y")
Z = Variable("z", ("z",), "float64", "um", "position along z")
MONITOR = Variable("monitor", ("z", SCAN), "float64", "count", "incident beam monitor")
NOISE = Variable(
    "noise", ("z",), "float32", "count", "noise of a voxel where nothing diffracts: lower quartile over frames"
)
FRAME_SCALE = Variable(
    "frame_scale", ("z", SCAN), "float64", "1", "factor that puts a frame on the scale of all others", stored=False
)
BACKGROUND = Variable("background_map", SPACE, "float32", "count", "counts without diffracted beam")
HOT = Variable("hot", SPACE, "bool", "1", "pixel that does not follow its neighbours")
EXPOSURE = Variable("exposure", ("z", SCAN), "float64", "s", "exposure time")
LIT = Variable("lit", SPACE, "bool", "1", "whether the place diffracts anywhere in the scan")
PEAK_LOCAL = Variable("peak_local", SPACE, "float32", "degree", "local peak of the rocking curve")
WIDTH_LOCAL = Variable("width_local", SPACE, "float32", "degree", "half of the local half width at 1/16 of the peak")
HAS_WEAK_BEAM = Variable("has_weak_beam", ("z",), "bool", "1", "whether the layer was scanned through its weak beam")
ENHANCED = Variable("weak_enhanced", SPACE, "float32", "1", "weak beam above its surroundings, in standard deviations")
ISOLATED = Variable(
    "weak_isolated", SPACE, "float32", "1", "the same beyond the peaks of all subgrains nearby: single dislocations"
)
DEFECTS = Variable("defects", SPACE, "bool", "1", "stands out in the weak beam")


def product_units(first: str, second: str) -> str:
    """Unit of a product, in UDUNITS spelling: ``degree2`` or ``degree keV``."""
    return f"{first}2" if first == second else f"{first} {second}"


def expand(variable: Variable, axes: Mapping[str, str]) -> list[Variable]:
    """The concrete variables behind a declaration.

    Parameters
    ----------
    variable : Variable
        With or without templates in its name.
    axes : mapping of str to str
        Scan axes in storage order, each with its unit.
    """
    dims = tuple(d for dim in variable.dims for d in (axes if dim == SCAN else (dim,)))
    if "{other}" in variable.name:
        return [
            replace(
                variable,
                name=variable.name.format(axis=a, other=b),
                dims=dims,
                units=product_units(axes[a], axes[b]),
                long_name=variable.long_name.format(axis=a, other=b),
            )
            for a, b in combinations(axes, 2)
        ]
    if variable.template:
        return [
            replace(
                variable,
                name=variable.name.format(axis=a),
                dims=dims,
                units=variable.units.format(units=u),
                long_name=variable.long_name.format(axis=a),
            )
            for a, u in axes.items()
        ]
    return [replace(variable, dims=dims)]


def check(
    variable: Variable, dims: tuple[str, ...], dtype: np.dtype[Any], units: str | None, *, asked: str | None = None
) -> None:
    """Refuse an array that is not what a declaration asks for.

    Raises
    ------
    InputError
        Wrong dimensions, a dtype that cannot hold the declared one, or other units.
    """
    asked = asked or f"variable {variable.name!r}"
    if tuple(dims) != variable.dims:
        raise InputError(
            asked, f"has dims {tuple(dims)}, not {variable.dims}", f"transpose or select to {variable.dims}"
        )
    if not np.can_cast(variable.dtype, dtype, "safe"):
        raise InputError(asked, f"has dtype {dtype}, not {variable.dtype}", f"convert it to {variable.dtype}")
    if units is not None and variable.units and units != variable.units:
        raise InputError(
            asked, f"is in {units!r}, not {variable.units!r}", f"convert it to {variable.units} and set attrs['units']"
        )


PlainBackground = Annotated[
    float | Literal["none"] | None,
    Field(
        description="subtracted from every count where there is no background map; 'none' subtracts nothing",
        json_schema_extra={"unit": "count"},
    ),
]
"""Parameter ``background`` of a reduction that may read a background map."""


def check_background(asked: str, background_map: np.ndarray | None, background: float | Literal["none"] | None) -> None:
    """Refuse no background at all, and both a map and a number.

    Raises
    ------
    InputError
    """
    if background_map is not None and background is not None:
        raise InputError(
            f"{asked}: parameter background={background!r}",
            "there is a background map already",
            "leave out the parameter, or leave out the step background",
        )
    if background_map is None and background is None:
        raise InputError(
            f"{asked} without a background",
            "would take the detector offset for light (on real scans a factor of two in the centre of mass)",
            "run the step background first, or give background=<counts>, or say background='none'",
        )


def plain_background(
    asked: str,
    background_map: np.ndarray | None,
    background: float | Literal["none"] | None,
    shape: tuple[int, ...],
) -> np.ndarray:
    """Counts to subtract from every pixel, the map or one number: (y, x), float32.

    Raises
    ------
    InputError
        See :func:`check_background`.
    """
    check_background(asked, background_map, background)
    if background_map is not None:
        return np.require(background_map, np.float32, ["C", "W"])  # one compiled version for every kind of block
    return np.full(shape, 0.0 if background == "none" else background, np.float32)


def pixel_length(name: str, asked: str, positions: np.ndarray) -> float:
    """Distance of neighbouring pixels, um; infinite along a side of one pixel.

    Raises
    ------
    InputError
        Pixels of unequal size.
    """
    if positions.size < 2:
        return np.inf
    steps = np.diff(positions)
    length = float(np.abs(steps.mean()))
    if not np.abs(steps - steps.mean()).max() <= 1e-6 * length or length == 0:
        raise InputError(
            f"{asked}: coordinate {name!r}",
            f"has steps from {steps.min():.9g} to {steps.max():.9g} um",
            "give pixels of equal size",
        )
    return length


_UNPRINTABLE = re.compile("[\\x00-\\x08\\x0b-\\x1f\\x7f-\\x9f\\u202a-\\u202e\\u2066-\\u2069\\ud800-\\udfff]")


def printable(text: str) -> str:
    """A text from a file with every character replaced that would steer a terminal, turn its words, or not be written.

    Examples
    --------
    >>> printable("sample \\x1b[2J A")
    'sample \ufffd[2J A'
    """
    return _UNPRINTABLE.sub("\ufffd", text)


def nearest(word: str, known: Iterable[str]) -> str:
    """``", did you mean 'x'?"`` for the known word nearest to a wrong one, else an empty string."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""From version n to n + 1: one small function of the root attributes each."""


def migrate(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Root attributes of a store, brought to :data:`SCHEMA_VERSION`.

    Raises
    ------
    StoreError
        No version, or one that is newer than this package knows.
    """
    found = attrs.get("schema_version")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise StoreError("schema_version of the store", f"is {found!r}", "open a store that was written by dfxm_dask")
    if found > SCHEMA_VERSION:
        raise StoreError(
            f"store of schema version {found}", f"this package knows up to {SCHEMA_VERSION}", "upgrade dfxm_dask"
        )
    result = dict(attrs)
    while result["schema_version"] < SCHEMA_VERSION:
        version = result["schema_version"]
        result = MIGRATIONS[version](result) | {"schema_version": version + 1}
    return result
