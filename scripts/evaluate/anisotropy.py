"""Straight dislocations with anisotropic elasticity beside isotropic ones: fields and weak-beam images.

    python scripts/evaluate/anisotropy.py

For every crystal and character: rms difference of the distortion over all directions about the line, relative to the
isotropic rms (independent of the distance), and the correlation of the two weak-beam images of one microscope (that of
Al 111 at 17 keV; reflection -1 1 -1 of fcc, 0 1 1 of bcc), of the frames 1.5e-4 and 2.5e-4 rad from the peak.
"""

from __future__ import annotations

import numpy as np

from dfxm_dask.optics.defects.dislocation import frames, gradient, lines
from dfxm_dask.optics.defects.scene import Elastic, Scene
from dfxm_dask.optics.defects.stroh import stroh
from dfxm_dask.optics.forward import image_stack
from dfxm_dask.optics.geometry import effective_pixel, orientation, rotation_y
from dfxm_dask.optics.instrument.microscope import find_microscope

# C11, C12, C44 in GPa and edge of the cell in um; Al as in the package; Cu and Fe from Hirth and Lothe; W
# from Featherston and Neighbours (1963): the values of Hirth and Lothe are exactly isotropic.
CRYSTALS = {
    "Al": ("fcc", (108.2, 61.3, 28.5), 4.0495e-4),
    "Cu": ("fcc", (168.4, 121.4, 75.4), 3.6149e-4),
    "Fe": ("bcc", (242.0, 146.5, 112.0), 2.8665e-4),
    "W": ("bcc", (522.4, 204.4, 160.8), 3.1652e-4),
}
SLIP = {"fcc": ((1, -1, 0), (1, 1, 1), (-1, 1, -1)), "bcc": ((1, 1, 1), (1, -1, 0), (0, 1, 1))}
ANGLES = (0, 30, 60, 90)
PHI = np.array([1.5e-4, -1.5e-4, 2.5e-4, -2.5e-4])
CORE = 1e-3


def voigt(moduli: tuple[float, float, float]) -> float:
    """Poisson ratio of the average over all orientations."""
    c11, c12, c44 = moduli
    lame, shear = (c11 + 4 * c12 - 2 * c44) / 5, (c11 - c12 + 3 * c44) / 5
    return lame / (2 * (lame + shear))


def compared(name: str, character: float) -> tuple[float, float]:
    """Relative rms difference of the fields, and correlation of the images."""
    kind, moduli, cell = CRYSTALS[name]
    b, n, hkl = (np.array(v, float) for v in SLIP[kind])
    scope = find_microscope("id06_al111")
    grain = rotation_y(-scope.theta) @ orientation(hkl)
    along, normal = b / np.linalg.norm(b), n / np.linalg.norm(n)
    t = np.cos(np.deg2rad(character)) * along + np.sin(np.deg2rad(character)) * np.cross(normal, along)
    line = lines([0, 0, 0], grain @ b * cell / 2, grain @ t, CORE)
    e1, across, _ = frames(line["burgers"], line["line"])[0]
    angle = 2 * np.pi * (np.arange(720)[:, None] + 0.5) / 720
    ring = np.cos(angle) * e1 + np.sin(angle) * across
    poisson = voigt(moduli)
    plain, whole = gradient(ring, line, poisson=poisson), stroh(ring, line, moduli=moduli, axes=grain)
    off = np.sqrt(((whole - plain) ** 2).sum((1, 2)).mean() / (plain**2).sum((1, 2)).mean())
    py, px = effective_pixel(scope.pixel, scope.theta)
    y, x = np.arange(-60, 61) * py, np.arange(-24, 25) * px
    two = [
        image_stack(Scene(poisson, lines=line, elastic=elastic), scope, {"phi": PHI}, y, x)
        for elastic in (None, Elastic(moduli, grain))
    ]
    if two[0].max() < 0.01:
        return float(off), np.nan
    return float(off), float(np.corrcoef(two[0].ravel(), two[1].ravel())[0, 1])


def main() -> None:
    """Print the table."""
    print("| crystal | Zener ratio | nu | " + " | ".join(f"{a} degree" for a in ANGLES) + " |")
    print("|---" * (3 + len(ANGLES)) + "|")
    for name, (_, (c11, c12, c44), _) in CRYSTALS.items():
        row = [f"{100 * off:.1f} % / {same:.3f}" for off, same in (compared(name, a) for a in ANGLES)]
        ratio = 2 * c44 / (c11 - c12)
        print(f"| {name} | {ratio:.2f} | {voigt((c11, c12, c44)):.3f} | " + " | ".join(row) + " |")


if __name__ == "__main__":
    main()
