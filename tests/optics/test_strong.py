"""The strong beam's lattice against Takagi-Taupin of walls of discrete dislocations, and free of the frame's edges."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter1d
from scipy.optimize import least_squares
from scipy.special import erf

from dfxm_dask.errors import InputError
from dfxm_dask.optics.instrument.microscope import find_microscope
from dfxm_dask.phantoms.presets import PRESETS, build
from dfxm_dask.phantoms.render import full_width, layer_truth, render
from dfxm_dask.phantoms.strong_lattice import between_lines, lattices, smearing
from tests.references.section_images import section_image

THETA, WAVELENGTH = 0.156611422, 12.398419843 / 17  # Al 111 at 17 keV
Q = 4 * np.pi * np.sin(THETA) / (WAVELENGTH * 1e-4)  # 1/um
BURGERS, POISSON, THICKNESS, SHEET = 2.863e-4, 0.334, 70.0, 0.5 / 2.3548
MIDDLE = THICKNESS / 2
SCAN = 2e-5 * np.arange(-14, 15)


def row(x, z, spacing, normal, along):
    """Displacement (x, z) of edges along y on the line x = 0, ``normal`` and ``along`` the parts of their Burgers
    vector: sums of the isotropic field by sinh and coth, but for constants."""
    c, side, h = np.pi / spacing, np.where(x < 0, -1.0, 1.0), 1 / (2 * (1 - POISSON))
    fall = np.exp(-2 * side * c * (x + 1j * z))
    log = np.abs(c * x) + np.log(np.abs(1 - fall) / 2)
    coth = side * (1 + fall) / (1 - fall)
    angle = np.arctan2(np.sin(c * z), np.tanh(c * x) * np.cos(c * z))
    even, odd = h * x * c * coth.real, h * x * c * coth.imag
    spread = (1 - 2 * POISSON) * h * log
    ux = normal * (angle - odd) + along * (spread - even)
    uz = -normal * (spread + even) + along * (angle + odd)
    return ux / (2 * np.pi), uz / (2 * np.pi)


def wall(azimuth, tilt, phase, in_plane):
    """Q·u of a tilt wall through the middle of the sheet, its normal turned from the beam by ``azimuth``: about Q (in
    the layer), or about y within the plane of diffraction, where Q·b of each line is a multiple of 2 pi."""
    spacing, s, c = BURGERS / tilt, np.sin(azimuth), np.cos(azimuth)

    def displaced(depth, lateral):
        depth, lateral = np.broadcast_arrays(depth - MIDDLE, lateral + MIDDLE * np.tan(THETA))
        if not in_plane:
            return Q * row(depth * c, lateral - phase * spacing, spacing, BURGERS, 0.0)[1]
        x, z, total = depth * c + lateral * s, -depth * s + lateral * c, np.zeros(depth.shape)
        whole = np.diff(np.round(BURGERS * s * Q / (2 * np.pi) * np.arange(13)))
        for k, along in enumerate((whole * 2 * np.pi / Q - BURGERS * s) / c):
            ux, uz = row(x, z - (phase + k) * spacing, 12 * spacing, BURGERS, along)
            total += Q * (ux * s + uz * c)
        return total

    return displaced


def dynamical(phase):
    """Centre of mass over the angles of incidence along the sheet, by Takagi-Taupin."""
    weight = SCAN - SCAN[0]
    s0, total = section(phase, np.ones(SCAN.size))
    first = section(phase, weight)[1]
    with np.errstate(invalid="ignore"):
        return s0 - MIDDLE / np.cos(THETA), first * weight.sum() / (total * SCAN.size) + SCAN[0]


def section(phase, weights):
    return section_image(
        phase,
        thickness=THICKNESS,
        sheet=SHEET,
        deviations=SCAN,
        weights=weights,
        step=0.19,
        theta=THETA,
        wavelength=WAVELENGTH,
        chi_h=-2.490e-6 - 1.45e-8j,
        chi0=-3.752e-6 - 1.51e-8j,
    )


def smeared(phase):
    """What the phantom's strong beam follows: slope of Q·u along the diffracted beam, averaged and smeared."""
    along, small, step = np.arange(-16, 16, 0.1), 1e-4, np.array([np.cos(THETA), np.sin(THETA)])
    heights = np.linspace(-2.5, 2.5, 11)
    weight = np.exp(-(heights**2) / 2)
    total = np.zeros(along.size)
    for h, w in zip(heights * SHEET / np.sin(2 * THETA), weight / weight.sum(), strict=True):
        s0 = along + MIDDLE / np.cos(THETA)
        depth, lateral = step[0] * (s0 + h), step[1] * (h - s0)
        after, before = (phase(depth + k * small * step[0], lateral + k * small * step[1]) for k in (1, -1))
        total -= w * np.angle(np.exp(1j * (after - before))) / (2 * small)
    total *= WAVELENGTH * 1e-4 / (2 * np.pi * np.sin(2 * THETA))
    scope = replace(find_microscope("id06_al111"), sheet=SHEET, theta=THETA)
    return along, gaussian_filter1d(total, smearing(scope)[1] / 0.1)


def step_of(along, centre, jump):
    """Place and width (standard deviation, um) of an error function within 7 um."""
    inside = np.abs(along) < 7
    s, c = along[inside], centre[inside] / jump

    def rest(p):
        return p[0] + p[1] * erf((s - p[2]) / (np.abs(p[3]) * np.sqrt(2) + 1e-9)) - c

    found = least_squares(rest, [0, 0.5, 0, 1.0], x_scale=[0.1, 0.1, 0.3, 0.5], loss="soft_l1", f_scale=0.1).x
    return found[2], abs(found[3])


def compared(degree, mdeg, phases, in_plane=False):
    """Places and widths by Takagi-Taupin and of the smeared lattice: (phase, way, place or width); their difference."""
    azimuth, tilt = np.deg2rad(degree), np.deg2rad(mdeg * 1e-3)
    jump = tilt * (1 if in_plane else np.cos(azimuth))
    out, apart = [], []
    for phase in phases:
        made = wall(azimuth, tilt, phase, in_plane)
        ways = dynamical(made), smeared(made)
        out.append([step_of(*way, jump) for way in ways])
        known = np.isfinite(ways[0][1])
        inner = np.abs(ways[1][0]) < 8
        apart.append((np.interp(ways[1][0], ways[0][0][known], ways[0][1][known]) - ways[1][1])[inner] / jump)
    return np.array(out), float(np.sqrt(np.mean(np.square(apart))))


@pytest.mark.slow
def test_smearing__is_as_wide_as_takagi_taupin():
    found, apart = compared(0, 6, [0.53])
    assert np.abs(found[..., 0]).max() < 0.15
    np.testing.assert_allclose(found[:, 1, 1], found[:, 0, 1], rtol=0.35)
    assert apart < 0.12


@pytest.mark.slow
@pytest.mark.parametrize("mdeg", [2, 3, 4, 6])
@pytest.mark.parametrize(
    ("degree", "in_plane"), [(0, False), (30, False), (60, False), (30, True), (-30, True), (60, True), (-60, True)]
)
def test_smearing__calibration(degree, in_plane, mdeg):
    """Widths and places as smearing() states them; ``pytest --slow -s`` prints the table."""
    found, apart = compared(degree, mdeg, np.arange(8) / 8 * (12 if in_plane else 1) + 0.03, in_plane)
    width, place, scatter = np.median(found[..., 1], 0), np.median(found[..., 0], 0), found[..., 0].std(0)
    print(f"\n{degree:4d} {in_plane} {mdeg} mdeg: width {width}, place {place} ± {scatter}, apart {apart:.3f}")
    assert 0.7 < width[1] < 1.5
    if degree != 60 and mdeg > 2:
        assert np.abs(np.diff(place)) < 0.5
    if mdeg == 6:
        assert apart < 0.5
        assert 0.4 < width[0] < 1.3


@pytest.mark.parametrize("name", ["easy", "al002"])
def test_lattices__do_not_depend_on_the_edges_of_the_frame(name):
    large = build(name, layers=2, shape=(60, 48), seed=2)[0]
    small = replace(large, shape=(9, 20))
    for full, part in zip(lattices(large, 1), lattices(small, 1), strict=True):
        np.testing.assert_allclose(part, full[:9, :20], rtol=0, atol=1e-11)


def test_lattices__follow_lines_only_where_smeared():
    """Beside a wall the lattice turns over a width; far from all lines both ways agree; no line, no difference."""
    phantom = build("al002", layers=1, shape=(64, 300), seed=1)[0]
    sharp = lattices(replace(phantom, strong_beam="sharp"), 0)
    smooth = lattices(phantom, 0)
    np.testing.assert_array_equal(smooth.voxels, sharp.voxels)
    turns = [np.abs(np.diff(found.strong[:, :, 0, 0], axis=1)).max() for found in (smooth, sharp)]
    assert turns[0] < 0.35 * turns[1]
    empty = build("empty", layers=1, shape=(32, 32), seed=1)[0]
    y, x = np.arange(32) * empty.pixel[0], np.arange(32) * empty.pixel[1]
    wanted = between_lines(empty.scene, empty.at, y, x, 0.0)
    np.testing.assert_allclose(lattices(empty, 0).strong, wanted, atol=3e-7)  # waves of 40 um and more


@pytest.mark.parametrize("name", sorted(PRESETS))
def test_build__every_preset_with_every_strong_beam(name):
    for kind in ("smeared", "sharp", "none"):
        for phantom in build(name, shape=(8, 8), strong_beam=kind):
            assert (phantom.kinematic, phantom.strong_beam) == (
                kind == "none",
                "sharp" if kind == "sharp" else "smeared",
            )
            counts, truth = next(render(phantom, 0))
            assert counts.shape == (8, 8)
            assert kind != "none" or np.nan_to_num(truth["dynamical_fraction"]).max() == 0
    assert build(name, shape=(8, 8))[0].kinematic == (name.startswith(("deformed", "reflections", "isolated")))


def test_layer_truth__phi0_is_that_of_the_lattice_drawn():
    """The middle of the flanks of curves without noise, by the acceptance of single pixels."""
    phantom = build("easy", layers=1, shape=(200, 160), seed=4)[0]
    made = lattices(phantom, 0)
    phi0 = layer_truth(phantom, 0, made)["phi0"]
    lit = np.isfinite(phi0)
    beta = made.strong[:, :, 0, 0] + np.tan(phantom.at.theta) * made.strong[:, :, 0, 2]
    np.testing.assert_allclose(phi0[lit], -np.rad2deg(beta[lit]), atol=1e-8)
    sharp = layer_truth(replace(phantom, strong_beam="sharp"), 0)["phi0"]
    assert 0.002 < np.nanmax(np.abs(phi0 - sharp)) < np.rad2deg(full_width(phantom))
    assert np.nanmedian(np.abs(phi0 - sharp)) < 5e-4


def test_build__refuses_an_unknown_strong_beam():
    for call in (lambda: build("easy", strong_beam="blurred"), lambda: replace(build("easy")[0], strong_beam="")):
        with pytest.raises(InputError, match=r"strong beam .* use one of smeared, sharp"):
            call()
