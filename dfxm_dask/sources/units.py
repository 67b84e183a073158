"""Units as spelled by beamlines, and their conversion into one unit each for angles, lengths, energies and times."""

from __future__ import annotations

from math import pi

RADIAN = 180 / pi
LENGTHS = ("um", "mm", "m", "nm")  # for messages
# Unit → factor into it → spellings.
_KINDS: dict[str, dict[float, str]] = {
    "degree": {
        1.0: "degree degrees deg °",
        1 / 60: "arcmin",
        1 / 3600: "arcsec",
        RADIAN: "rad rads radian radians",
        1e-3 * RADIAN: "mrad mrads milliradian milliradians",
        1e-6 * RADIAN: "urad urads µrad μrad microradian microradians",
        1e-9 * RADIAN: "nrad",
    },
    "um": {
        1.0: "um µm μm micron microns micrometer micrometre",
        1e6: "m meter metre",
        1e4: "cm",
        1e3: "mm millimeter millimetre",
        1e-3: "nm nanometer nanometre",
        1e-4: "angstrom Å",
        1e-6: "pm",
    },
    "keV": {1.0: "keV kev", 1e-3: "eV ev", 1e3: "MeV"},
    "s": {
        1.0: "s sec second seconds",
        1e-3: "ms msec",
        1e-6: "us µs μs",
        1e-9: "ns",
        60.0: "min",
        3600.0: "h",
    },
    "A": {1.0: "A", 1e-3: "mA", 1e-6: "uA µA μA", 1e-9: "nA", 1e-12: "pA"},
    "V": {1.0: "V", 1e-3: "mV", 1e-6: "uV µV μV", 1e3: "kV"},
    "Hz": {1.0: "Hz", 1e3: "kHz", 1e6: "MHz"},
}
_KNOWN = {
    word: (unit, factor) for unit, kinds in _KINDS.items() for factor, words in kinds.items() for word in words.split()
}


def base_unit(spelled: str) -> tuple[str, float]:
    """Stored unit of a quantity, and the conversion factor; an unknown unit is returned unchanged.

    Examples
    --------
    >>> base_unit("deg"), base_unit("mm"), base_unit("photons")
    (('degree', 1.0), ('um', 1000.0), ('photons', 1.0))
    """
    return _KNOWN.get(spelled) or _KNOWN.get(spelled.lower()) or (spelled, 1.0)


def factor_between(spelled: str, wanted: str) -> float | None:
    """Factor from one unit into another; None for units of different quantities."""
    (mine, factor), (theirs, other) = base_unit(spelled), base_unit(wanted)
    return factor / other if mine == theirs else None
