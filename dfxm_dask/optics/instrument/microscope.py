"""Microscopes: beam, objective and pixel of a dark-field X-ray microscope."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from dfxm_dask.errors import InputError
from dfxm_dask.schema import nearest


@dataclass(frozen=True)
class Microscope:
    """Beam, objective and pixel of a microscope, which determine its acceptance.

    Parameters
    ----------
    energy : float, keV
        Photon energy.
    theta : float, rad
        Bragg angle of the reference lattice.
    eta : float, rad
        Azimuth of the reflection about the beam; 0 for the vertical scattering plane.
    divergence_v : float, rad
        Vertical divergence of the incident beam: rms for a Gaussian profile, full width for a uniform one.
    divergence_profile : "gaussian" or "uniform"
        Profile of the vertical divergence.
    divergence_v_cut : float, rad, optional
        The vertical divergence ends at ± this; infinite if not given. For a uniform profile it is half the full width.
    divergence_h : float, rad
        Horizontal divergence of the incident beam, rms.
    aperture : float, rad
        Numerical aperture of the objective, rms.
    bandwidth : float
        Relative energy spread dE/E, rms.
    sheet : float, um
        Height of the line beam, rms.
    pixel : float, um
        Pixel of the detector, referred to the object.
    detector : "vertical" or "normal"
        Detector parallel to the lab yz plane, or normal to the diffracted beam.

    Raises
    ------
    InputError
        A number out of range, or an unknown profile or detector.

    Examples
    --------
    >>> find_microscope("al002").divergence_v_cut
    0.000265
    """

    energy: float
    theta: float
    eta: float = 0.0
    divergence_v: float = 0.0
    divergence_profile: Literal["gaussian", "uniform"] = "gaussian"
    divergence_v_cut: float = np.inf
    divergence_h: float = 0.0
    aperture: float = 0.0
    bandwidth: float = 0.0
    sheet: float = 0.0
    pixel: float = 0.04
    detector: Literal["vertical", "normal"] = "vertical"

    def __post_init__(self) -> None:
        words = (
            ("divergence_profile", self.divergence_profile, ("gaussian", "uniform")),
            ("detector", self.detector, ("vertical", "normal")),
        )
        for name, value, known in words:
            if value not in known:
                raise InputError(f"microscope: {name} {value!r}", "is not known", f"take one of {list(known)}")
        for name in ("energy", "pixel"):
            if not 0 < getattr(self, name) < np.inf:
                raise InputError(f"microscope: {name} {getattr(self, name)}", "is not positive", "give it in keV or um")
        if not 0 < self.theta < np.pi / 4:
            raise InputError(f"microscope: theta {self.theta}", "is not between 0 and pi/4", "give it in rad")
        if not -np.pi / 2 < self.eta < np.pi / 2:
            raise InputError(f"microscope: eta {self.eta}", "is not within ± pi/2", "give it in rad")
        for name in ("divergence_v", "divergence_h", "aperture", "bandwidth", "sheet"):
            value = getattr(self, name)
            if not 0 <= value < np.inf:
                raise InputError(f"microscope: {name} {value}", "is negative or not finite", "give 0 or more")
        cut = self.divergence_v_cut
        if not cut > 0:
            raise InputError(f"microscope: divergence_v_cut {cut}", "is not positive", "give it in rad")
        if self.divergence_profile == "uniform":
            half = self.divergence_v / 2
            if cut not in (np.inf, half):
                raise InputError(
                    f"microscope: divergence_v_cut {cut}",
                    f"is not half the full width of the uniform profile, {half}",
                    "leave it out",
                )
            if half == 0:
                raise InputError("microscope: uniform divergence_v 0", "has no width", "take the Gaussian profile")
            object.__setattr__(self, "divergence_v_cut", half)


# Widths as the codes of the papers state them. id06_al111 and oblique_al113: dfxm-geo 3.0.0 (Borgi et al., J. Appl.
# Cryst. 57, 358 (2024); Henningsson et al., arXiv:2503.22022); al002: pyDFXM (Wang et al., arXiv:2409.01439);
# brennan_al002: DFXMTools (Brennan 2022).
MICROSCOPES = {
    "id06_al111": Microscope(
        energy=17.0,
        theta=0.156611422,
        divergence_v=5.3e-4 / 2.355,
        divergence_v_cut=1.4e-4,
        aperture=7.31e-4 / 2.35,
        bandwidth=6e-5,
        sheet=0.15 / 2.35,
        pixel=0.04,
    ),
    "al002": Microscope(
        energy=17.0,
        theta=float(np.radians(10.365)),
        divergence_v=5.3e-4,
        divergence_profile="uniform",
        divergence_h=1e-5 / 2.35,
        aperture=7.31e-4 / 2.35,
        bandwidth=6e-5,
        sheet=0.6 / 2.35,
        pixel=0.075,
    ),
    # The code draws the horizontal divergence from the vertical one; we take a Gaussian of equal variance.
    "brennan_al002": Microscope(
        energy=17.0,
        theta=float(np.radians(10.365)),
        divergence_v=float(np.radians(0.03)),
        divergence_profile="uniform",
        divergence_h=float(np.radians(0.03) / np.sqrt(12)),
        aperture=7.2e-4,
        bandwidth=1.4e-4 / 2.355,
        sheet=0.6 / 2.355,
        pixel=0.075,
    ),
    # Neither cut nor sheet are published for this set: a cut far outside the beam, a sheet of .5 um FWHM (our choice).
    "oblique_al113": Microscope(
        energy=19.1,
        theta=float(np.radians(15.417)),
        eta=float(np.radians(20.233)),
        divergence_v=2.7e-5 / 2.355,
        divergence_v_cut=1.4e-4,
        aperture=5.56e-4 / 2.35,
        bandwidth=6e-5,
        sheet=0.5 / 2.355,
        pixel=0.04,
    ),
}
"""Published microscopes by name."""


def find_microscope(name: str) -> Microscope:
    """Microscope by name.

    Raises
    ------
    InputError
        No such microscope.

    Examples
    --------
    >>> find_microscope("id06_al111").pixel
    0.04
    """
    if name not in MICROSCOPES:
        found = f"is not known{nearest(name, MICROSCOPES)}"
        raise InputError(f"microscope {name!r}", found, f"take one of {list(MICROSCOPES)}")
    return MICROSCOPES[name]
