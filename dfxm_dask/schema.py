"""The vocabulary of a store: dimensions, variables, units, and the version of the layout.

A :class:`Variable` declares the name, shape and unit of an array, once. Names may contain the templates ``{axis}``
(once per scan axis) and ``{axis}_{other}`` (once per pair of scan axes); the dimension ``scan`` represents all scan
axes of a scan, in storage order.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import combinations
from math import ceil
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from dfxm_dask.errors import InputError, StoreError

SCHEMA_VERSION = 1
SPACE = ("z", "y", "x")
SCAN = "scan"
KNOWN_AXES = ("phi", "chi", "two_theta", "energy")
PATCH = 64


class Dim(str):
    """Name of a dim other than z, y, x and the scan axes, with its length.

    Parameters
    ----------
    name : str
    length : int or str, optional
        The length, or the parameter of the reduction that sets it. Without it the length follows from the data, as for
        results of a gather.
    of : str, optional
        The dim that is divided into tiles, ``y`` or ``x``, with one position per tile.
    step : int
        Pixels along one of these tiles; the last may have fewer.

    Examples
    --------
    >>> Dim("patch_y", of="y", step=64).known({"y": 130}, {}), Dim("curve", "count").known({}, {"count": 4})
    (3, 4)
    """

    length: int | str | None
    of: str
    step: int

    def __new__(cls, name: str, length: int | str | None = None, *, of: str = "", step: int = 1) -> Dim:
        dim = super().__new__(cls, name)
        dim.length, dim.of, dim.step = length, of, step
        return dim

    def known(self, sizes: Mapping[Any, int], parameters: Mapping[str, Any]) -> int | None:
        """Length for a scan of these sizes and these parameters of a reduction; None where they do not determine it."""
        if self.of:
            return ceil(sizes[self.of] / self.step) if self.of in sizes else None
        return self.length if isinstance(self.length, int) else parameters.get(self.length or "")


PATCH_Y, PATCH_X = (Dim(f"patch_{side}", of=side, step=PATCH) for side in ("y", "x"))
XYZ = Dim("xyz", 3)
REFLECTION = "reflection"  # dim of a set of reflections


@dataclass(frozen=True)
class Variable:
    """One named array.

    Parameters
    ----------
    name : str
        Name in the group; may contain ``{axis}`` and ``{other}``.
    dims : tuple of str
        Dimensions in storage order; ``scan`` represents every scan axis. A dim that is neither z, y, x nor a dim of an
        input is a :class:`Dim`.
    dtype : str
        numpy dtype name. An input may have any dtype that represents this one without loss, and float32 for float64.
    units : str
        UDUNITS spelling ("count", "degree", "um", "1"). ``{units}`` is the unit of the scan axis in the name, and, in a
        variable without ``{axis}``, that of the axis of the rocking curve.
    long_name : str
        One line for the axes of figures and for documentation.
    flags : tuple of (int, str)
        For a CF flag variable: mask and meaning of each bit.
    stored : bool
        False for an array that only exists between the steps of one pass (such as cleaned counts).
    same_scale : bool
        True for counts that are compared with the counts of the scan, on the same scale (see the step ``normalise``).
    """

    name: str
    dims: tuple[str, ...]
    dtype: str
    units: str
    long_name: str
    flags: tuple[tuple[int, str], ...] = ()
    stored: bool = True
    same_scale: bool = False

    @property
    def attrs(self) -> dict[str, Any]:
        """Attributes in CF style, as written to the store."""
        attrs: dict[str, Any] = {"units": self.units, "long_name": self.long_name}
        if self.flags:
            attrs["flag_masks"] = [mask for mask, _ in self.flags]
            attrs["flag_meanings"] = " ".join(meaning for _, meaning in self.flags)
        return attrs

    @property
    def coordinate(self) -> bool:
        """Whether the variable is a coordinate of the scan; a column of a table may have the same name."""
        return self.dims == (self.name,)

    @property
    def template(self) -> bool:
        """Whether the name represents one variable per scan axis (or pair of axes)."""
        return "{axis}" in self.name

    @property
    def argument(self) -> str:
        """Name of the keyword argument of a kernel that reads the variable."""
        return self.name.replace("_{axis}", "").replace("_{other}", "")

    @property
    def fill_value(self) -> float | int | bool:
        """Value of a missing block: NaN for floats; zero in an integer map is never trusted without its ledger."""
        kind = np.dtype(self.dtype).kind
        return float("nan") if kind == "f" else False if kind == "b" else 0


COUNTS = Variable("counts", ("z", SCAN, "y", "x"), "uint16", "count", "detector counts")
AXES = Variable(SCAN, (SCAN,), "float64", "", "positions along every scan axis")
X = Variable("x", ("x",), "float64", "um", "position along x")
Y = Variable("y", ("y",), "float64", "um", "position along y")
Z = Variable("z", ("z",), "float64", "um", "position along z")
MONITOR = Variable("monitor", ("z", SCAN), "float64", "", "incident beam monitor")
"""In the unit of its counter, recorded in the attributes of the stored array."""
MASKED = Variable("masked", ("z",), "uint32", "1", "number of pixels that the detector marks as invalid")
FEWEST_MASKED = 3
"""Least number of frames after which a 16-bit pixel with the largest value in all of them is masked, not saturated
(our choice)."""
FULL_WELL = Variable(
    "full_well", SPACE, "bool", "1", "whether a raw count of the pixel fills the detector well", stored=False
)
NOISE = Variable(
    "noise", ("z",), "float32", "count", "noise of a voxel without diffracted beam, lower quartile over frames"
)
FRAME_SCALE = Variable("frame_scale", ("z", SCAN), "float64", "1", "normalisation factor of a frame", stored=False)
SCALED = "counts_normalised"
"""Attribute of arrays computed from counts on another scale than the recorded one."""
BACKGROUND = Variable(
    "background_map", SPACE, "float32", "count", "background counts without diffracted beam", same_scale=True
)
HOT = Variable("hot", SPACE, "bool", "1", "whether the background deviates from that of neighbouring pixels")
EXPOSURE = Variable("exposure", ("z", SCAN), "float64", "s", "exposure time")
POSITION = Variable("position_{axis}", ("z", SCAN), "float64", "{units}", "position of each frame along {axis}")
"""Written by ingest only where recorded positions differ from the coordinate by more than
:data:`POSITION_TOLERANCE`."""
SATURATION = Variable("saturation", ("z",), "float32", "count", "raw count of a full detector well")
"""Raw counts; NaN where neither the dtype nor the file determines them."""
POSITION_TOLERANCE = 0.01
"""Largest deviation, in steps, of a frame from the coordinate of its axis without a separate position (our choice; the
read positions of the real scans of ID03 deviate by at most 0.003 steps)."""
LIT = Variable("lit", SPACE, "bool", "1", "whether the pixel diffracts at any position of the scan")
COM = Variable("com_{axis}", SPACE, "float64", "{units}", "centre of mass along {axis}")
COM_ERROR = Variable("com_{axis}_error", SPACE, "float32", "{units}", "standard error of the centre along {axis}")
COM_COVARIANCE = Variable("com_{axis}_{other}_covariance", SPACE, "float32", "", "covariance of {axis} and {other}")
WEAK_MINUS = Variable("weak_minus", SPACE, "float32", "count", "mean counts of a weak-beam frame below the peak")
WEAK_PLUS = Variable("weak_plus", SPACE, "float32", "count", "mean counts of a weak-beam frame above the peak")
PEAK_LOCAL = Variable("peak_local", SPACE, "float64", "{units}", "local peak position of the rocking curve")
WIDTH_LOCAL = Variable(
    "width_local", SPACE, "float32", "{units}", "half width of the local rocking curve, derived at 1/16 of the peak"
)
HAS_WEAK_BEAM = Variable("has_weak_beam", ("z",), "bool", "1", "whether the scan covers the weak beam of the layer")
ENHANCED = Variable(
    "weak_enhanced", SPACE, "float32", "1", "weak-beam contrast to the surroundings, in standard deviations"
)
ISOLATED = Variable(
    "weak_isolated",
    SPACE,
    "float32",
    "1",
    "contrast of single dislocations beyond all subgrain peaks nearby, in standard deviations",
)
DEFECTS = Variable("defects", SPACE, "bool", "1", "whether the pixel shows a defect in the weak beam")
STANDS_OUT = Variable("stands_out", SPACE, "bool", "1", "whether the weak beam exceeds the noise threshold")
ROTATION = Variable(
    "defects_rotation",
    SPACE,
    "uint8",
    "1",
    "class of the lattice rotation at a pixel with a defect",
    flags=((1, "with_rotation"), (2, "without_rotation"), (4, "rotation_unknown")),
)
"""0 outside the mask of defects; otherwise one of the three."""


def product_units(first: str, second: str) -> str:
    """Unit of a product, in UDUNITS spelling: ``degree2`` or ``degree keV``."""
    return f"{first}2" if first == second else f"{first} {second}"


def expand(variable: Variable, axes: Mapping[str, str], rocking: str | None = None) -> list[Variable]:
    """The concrete variables of a declaration.

    Parameters
    ----------
    variable : Variable
        A declaration, with or without templates in the name.
    axes : mapping of str to str
        Scan axes in storage order, each with its unit.
    rocking : str, optional
        Axis of the rocking curve. Without it, and with axes of several units, a unit that depends on it is "".
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
    if "{units}" in variable.units:
        own = {axes[rocking]} if rocking is not None and rocking in axes else set(axes.values())
        units = variable.units.format(units=own.pop()) if len(own) == 1 else ""
        return [replace(variable, dims=dims, units=units)]
    return [replace(variable, dims=dims)]


def rocking_axis(axes: Mapping[str, str], sizes: Mapping[Any, int], axis: str | None = None) -> str | None:
    """Axis of the rocking curve: the given one, else phi, else the first with three positions or more."""
    if axis is not None and axis in axes:
        return axis
    enough = [a for a in axes if sizes.get(a, 3) >= 3]
    return "phi" if "phi" in enough else next(iter(enough), None)


def length_fault(variable: Variable, units: str | None) -> str | None:
    """Reason why positions along z, y or x are not lengths, or None; a missing unit is never assumed to be um."""
    if not variable.coordinate or not variable.units or units == variable.units:
        return None
    return (
        f"needs {variable.name} in {variable.units}, it is in {units!r}"
        if units
        else (f"needs {variable.name} in {variable.units}, it has no unit")
    )


def check(
    variable: Variable, dims: tuple[str, ...], dtype: np.dtype[Any], units: str | None, *, asked: str | None = None
) -> None:
    """Refuse an array that does not match its declaration.

    Raises
    ------
    InputError
        Wrong dimensions, a dtype that cannot represent the declared one (float32 is accepted for float64), or other
        units.
    """
    asked = asked or f"variable {variable.name!r}"
    if tuple(dims) != variable.dims:
        remedy = f"call .transpose{variable.dims}, after .expand_dims(...) for missing dims"
        raise InputError(asked, f"has dims {tuple(dims)}, not {variable.dims}", remedy)
    # Maps of positions were float32 in stores of earlier versions, and are read without conversion.
    older = np.dtype(variable.dtype) == np.float64 and dtype == np.float32
    if not np.can_cast(variable.dtype, dtype, "safe") and not older:
        raise InputError(asked, f"has dtype {dtype}, not {variable.dtype}", f"call .astype('{variable.dtype}')")
    if units is not None and variable.units and units != variable.units:
        raise InputError(
            asked, f"is in {units!r}, not {variable.units!r}", f"convert it to {variable.units} and set attrs['units']"
        )


PlainBackground = Annotated[
    float | Literal["none"] | None,
    Field(
        description="background subtracted from every count if there is no background map; 'none' subtracts nothing",
        json_schema_extra={"unit": "count"},
    ),
]
"""Parameter ``background`` of a reduction that may read a background map."""

RockingAxis = Annotated[
    str | None, Field(description="scan axis of the rocking curve; by default phi if it is scanned")
]
"""Parameter ``axis`` of a reduction that separates weak and strong beam."""


def check_background(asked: str, background_map: np.ndarray | None, background: float | Literal["none"] | None) -> None:
    """Refuse a missing background, and both a map and a number.

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
            "would count the detector offset as light (on real scans a factor of two in the centre of mass)",
            "run the step background first, or give background=<counts>, or set background='none'",
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


def full_count(saturation: np.ndarray | float | None, dtype: np.dtype[Any]) -> float:
    """Raw count of a full well: the given one, else the largest of an integer dtype, else infinite.

    Examples
    --------
    >>> full_count(4095.0, np.dtype("uint16")), full_count(np.float32(np.nan), np.dtype("uint16"))
    (4095.0, 65535.0)
    """
    if saturation is not None and np.isfinite(saturation):
        return float(saturation)
    return float(np.iinfo(dtype).max) if dtype.kind in "iu" else np.inf


def scale_attrs(parameters: Mapping[str, Any] | None, counter: str = "") -> dict[str, str]:
    """Attribute of an array computed from normalised counts; empty for counts on the recorded scale.

    Parameters
    ----------
    parameters : mapping or None
        Parameters of the step ``normalise`` of the counts: ``by``, and the numbers ``reference`` and ``offset``.
    counter : str
        Name of the counter of the monitor, if recorded.

    Examples
    --------
    >>> scale_attrs({"by": "monitor", "reference": 5e5, "offset": 106.0}, "pico4")
    {'counts_normalised': 'by monitor (counter pico4), reference 500000, detector offset 106 count'}
    """
    if parameters is None:
        return {}
    by = f"by {parameters['by']}" + (f" (counter {printable(counter)})" if counter else "")
    words = f"{by}, reference {parameters['reference']:.6g}, detector offset {parameters['offset']:.6g} count"
    return {SCALED: words}


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
    """Text from a file, with every character replaced that would control a terminal, change the direction of text, or
    fail to be written.

    Examples
    --------
    >>> printable("sample \\x1b[2J A")
    'sample \ufffd[2J A'
    """
    return _UNPRINTABLE.sub("\ufffd", text)


def nearest(word: str, known: Iterable[str]) -> str:
    """``" (did you mean 'x'?)"`` for the known name nearest to a wrong one, else an empty string."""
    match = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f" (did you mean {match[0]!r}?)" if match else ""


MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}
"""Functions of the root attributes, each from version n to n + 1."""


def migrate(attrs: Mapping[str, Any]) -> dict[str, Any]:
    """Root attributes of a store, migrated to :data:`SCHEMA_VERSION`.

    Raises
    ------
    StoreError
        No version, or one that is newer than this package.
    """
    found = attrs.get("schema_version")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise StoreError("schema_version of the store", f"is {found!r}", "open a store that was written by dfxm_dask")
    if found > SCHEMA_VERSION:
        raise StoreError(
            f"store of schema version {found}", f"this package supports up to {SCHEMA_VERSION}", "upgrade dfxm_dask"
        )
    result = dict(attrs)
    while result["schema_version"] < SCHEMA_VERSION:
        version = result["schema_version"]
        result = MIGRATIONS[version](result) | {"schema_version": version + 1}
    return result
