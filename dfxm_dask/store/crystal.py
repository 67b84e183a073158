"""The crystal that a store records: lattice, orientation, the measured reflection, and the goniometer setting."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from dfxm_dask.errors import InputError, StoreError
from dfxm_dask.parameters import first_fault, validated
from dfxm_dask.reduction import Reduction
from dfxm_dask.store.integrity.opened import OpenStore, open_store

WORDS = ("lattice", "hkl", "goniometer", "energy", "frame", "rotation_axis")
"""Attributes of the root group."""
MOTORS = ("mu", "omega", "eta", "theta")
FRAMES = ("laboratory", "sample")

MOST = 100  # below which indices of a reflection are


def checked_crystal(
    lattice: Any = None,
    hkl: Any = None,
    known: Mapping[str, Any] | None = None,
    *,
    goniometer: Any = None,
    energy: Any = None,
    frame: Any = None,
    rotation_axis: Any = None,
) -> dict[str, Any]:
    """Attributes of the root group for a crystal and its setting, updated with given values.

    Parameters
    ----------
    lattice : mapping, optional
        As the parameter of ``characterise_boundaries``; see :class:`dfxm_dask.optics.defects.lattice.Lattice`.
    hkl : (int, int, int), optional
        Reflection of a cubic lattice.
    known : mapping, optional
        Root attributes of the store, with the recorded crystal. A lattice given as vectors replaces both.
    goniometer : mapping of str to float, degree, optional
        Any of mu, omega, eta and theta; other recorded motors stay.
    energy : float, keV, optional
        Photon energy.
    frame : "laboratory" or "sample", optional
        Axes along which the pixels lie: those of the laboratory, in which omega turns the sample, or of the sample.
    rotation_axis : (float, float), um, optional
        Position along y and x of the rotation axis of omega.

    Returns
    -------
    dict
        The attributes of :data:`WORDS`, as far as known.

    Raises
    ------
    InputError
        An invalid lattice, reflection or setting, or a lattice and a reflection that contradict each other.

    Examples
    --------
    >>> checked_crystal({"parameter": 4.05e-4, "x": [1, 0, -0.1], "z": [0.1, 0, 1]}, (0, 0, 2))["hkl"]
    [0, 0, 2]
    """
    made = {word: value for word, value in (known or {}).items() if word in WORDS}
    given = {"goniometer": goniometer, "energy": energy, "frame": frame, "rotation_axis": rotation_axis}
    made |= {word: value for word, value in given.items() if value is not None}
    if (
        goniometer is not None
        and isinstance((known or {}).get("goniometer"), Mapping)
        and isinstance(goniometer, Mapping)
    ):
        made["goniometer"] = {**(known or {})["goniometer"], **goniometer}
    made |= {word: check(made[word]) for word, check in _SETTING.items() if word in made}
    if lattice is not None:
        if not isinstance(lattice, Mapping):
            remedy = "give a mapping such as {parameter: 4.05e-4, x: [1, 0, 0], z: [0, 0, 1]}, with parameter in um"
            raise InputError("lattice", f"is {lattice!r:.80}", remedy)
        made["lattice"] = dict(lattice)
        if lattice.get("vectors") is not None:
            made.pop("hkl", None)
        own = made["lattice"].pop("hkl", None)
        if own is not None and hkl is not None and _reflection(own) != _reflection(hkl):
            raise InputError(
                "hkl", f"is {_reflection(hkl)}, but {_reflection(own)} in the lattice", "give the reflection once"
            )
        hkl = own if hkl is None else hkl
    if hkl is not None:
        made["hkl"] = hkl
    if "hkl" in made:
        made["hkl"] = _reflection(made["hkl"])
    if "lattice" in made:
        from dfxm_dask.optics.defects.lattice import Lattice  # loaded only for stores with a lattice

        try:
            both = validated(Lattice, {**made["lattice"], **_visible(made)})
        except ValidationError as error:
            inner = error.errors()[0].get("ctx", {}).get("error")
            if isinstance(inner, InputError):
                raise inner from None
            place, reason = first_fault(error)
            name = ".".join(str(part) for part in place)
            raise InputError(
                f"lattice{name and f': {name}'}",
                reason,
                "see the parameter lattice: dfxm-dask explain characterise_boundaries",
            ) from None
        made["lattice"] = both.model_dump(mode="json", exclude_none=True, exclude={"hkl"})
    return made


OBLIQUE = 3.0
"""degree: beyond this eta the scattering vector is not in the plane of beam and vertical (our choice)."""


def _visible(known: Mapping[str, Any]) -> dict[str, Any]:
    """The reflection, if the scattering vector lies in the plane of the axes x and z of the store; else empty."""
    oblique = abs(known.get("goniometer", {}).get("eta", 0.0)) > OBLIQUE or known.get("frame") == "sample"
    return {} if oblique or "hkl" not in known else {"hkl": known["hkl"]}


def _motors(value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping) or not value or not set(value) <= set(MOTORS):
        raise InputError("goniometer", f"is {value!r:.80}", f"give degrees of {', '.join(MOTORS)}")
    return {motor: _number(f"goniometer: {motor}", value[motor], -360.0, 360.0, "degree") for motor in value}


def _number(asked: str, value: Any, low: float, high: float, unit: str) -> float:
    try:
        number = float(value) if not isinstance(value, bool | str | bytes) else float("nan")
    except (TypeError, ValueError):
        number = float("nan")
    if not low <= number <= high:
        raise InputError(asked, f"is {value!r:.80}", f"give a number from {low:g} to {high:g}, in {unit}")
    return number


def _frame(value: Any) -> str:
    if value not in FRAMES:
        raise InputError("frame", f"is {value!r:.80}", f"choose {' or '.join(FRAMES)}")
    return str(value)


def _axis(value: Any) -> list[float]:
    listed = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes)
    if not listed or len(value) != 2:
        raise InputError("rotation_axis", f"is {value!r:.80}", "give two positions in um, along y and along x")
    return [_number("rotation_axis", part, -1e6, 1e6, "um") for part in value]


_SETTING = {
    "goniometer": _motors,
    "energy": lambda value: _number("energy", value, 1.0, 1000.0, "keV"),
    "frame": _frame,
    "rotation_axis": _axis,
}
"""Checks of the attributes of a setting."""


def _reflection(value: Any) -> list[int]:
    """Three indices."""
    listed = isinstance(value, Sequence | np.ndarray) and not isinstance(value, str | bytes)
    try:
        indices = [float(index) for index in value] if listed else []
    except (TypeError, ValueError):
        indices = []
    if any(isinstance(index, bool | np.bool_ | str) for index in (value if listed else ())):
        indices = []
    sizes = [abs(index) for index in indices]
    if len(sizes) != 3 or not all(size < MOST and size == int(size) for size in sizes) or not any(sizes):
        raise InputError("hkl", f"is {value!r:.80}", "give three whole numbers, not all zero, such as 0,0,2")
    return [int(index) for index in indices]


def crystal_of_store(store: str | os.PathLike[str]) -> dict[str, Any]:
    """Crystal and setting in the root group of a store, as far as known.

    Raises
    ------
    StoreError
        An invalid lattice, reflection or setting.
    """
    return _crystal_of(open_store(store))


def _crystal_of(opened: OpenStore) -> dict[str, Any]:
    attributes, store = opened.nodes[""]["attributes"], opened.path
    try:
        return checked_crystal(**{word: attributes.get(word) for word in WORDS})
    except InputError as error:
        raise StoreError(
            f"crystal of {store}: {error.asked}",
            error.found,
            f"set it with dfxm-dask calibrate {store} --{error.asked.split(':')[0].replace('_', '-')}",
        ) from None


def with_crystal(reduction: Reduction, parameters: Mapping[str, Any], opened: OpenStore) -> dict[str, Any]:
    """Parameters of a step, with the lattice of the store if the reduction takes a lattice and none is given."""
    given = dict(parameters)
    if "lattice" in reduction.parameters.model_fields and given.get("lattice") is None:
        known = _crystal_of(opened)
        if "lattice" in known:
            given["lattice"] = {**known["lattice"], **_visible(known)}
    return given


def refuse_other_crystal(store: Path, asked: Mapping[str, Any]) -> None:
    """Refuse to resume an ingest with a crystal that differs from that of the store.

    Raises
    ------
    StoreError
    """
    has = crystal_of_store(store)
    for word, value in asked.items():
        if has.get(word) != value:
            raise StoreError(
                f"store {store}",
                f"has {word} {has.get(word, 'unknown')}, not {value}",
                f"run dfxm-dask calibrate {store} --{word.replace('_', '-')} ...",
            )


def crystal_words(known: Mapping[str, Any]) -> str:
    """A crystal as text."""
    lattice: Mapping[str, Any] = known.get("lattice", {})
    said = [f"{word} {_plain(value)}" for word, value in lattice.items()]
    hkl: Sequence[int] = known.get("hkl", ())
    if hkl:
        said.append(f"reflection {' '.join(str(index) for index in hkl)}")
    said += [f"{motor} {angle:g} degree" for motor, angle in known.get("goniometer", {}).items()]
    if "energy" in known:
        said.append(f"{known['energy']:g} keV")
    if "frame" in known:
        said.append(f"pixels along the axes of the {known['frame']}")
    if "rotation_axis" in known:
        said.append("rotation axis at y {:g}, x {:g} um".format(*known["rotation_axis"]))
    return ", ".join(said) or "unknown"


def _plain(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_plain(part) for part in value)}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
