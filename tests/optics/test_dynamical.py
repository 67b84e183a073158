"""Takagi-Taupin against closed forms, conservation of flux and a spectral integrator of the same equations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.interpolate import CubicSpline

from dfxm_dask.errors import InputError
from dfxm_dask.optics.dynamical import lattice, takagi_taupin
from tests.references.section_images import laue_plate, section_image, slit_source

THETA, WAVELENGTH, CHI_H = 0.156611422, 12.398419843 / 17, -2.490e-6  # Al 111 at 17 keV, without absorption
CRYSTAL: dict[str, Any] = {"theta": THETA, "wavelength": WAVELENGTH, "chi_h": CHI_H}
LENGTH = WAVELENGTH * 1e-4 * np.cos(THETA) / abs(CHI_H)
COUPLING = np.pi * np.cos(THETA) / LENGTH
HALF_WIDTH = abs(CHI_H) / np.sin(2 * THETA)
Q = 4 * np.pi * np.sin(THETA) / (WAVELENGTH * 1e-4)  # 1/um


def edge(depth: np.ndarray, lateral: np.ndarray, at: float, poisson: float = 0.334) -> np.ndarray:
    """Q·u of an edge dislocation along y with b along Q and Q·b = 2 pi."""
    z = depth - at
    square = lateral**2 + z**2
    return np.arctan2(z, lateral) + lateral * z / (2 * (1 - poisson) * square)


def spectral(
    incident: np.ndarray, x: np.ndarray, thickness: float, phase: Any, chi_h: complex, chi0: complex, deviation: float
) -> tuple[np.ndarray, np.ndarray]:
    """Takagi's equations for exp(+i k·r) by the method of lines: Fourier derivative along x, adaptive in depth."""
    k = 2j * np.pi * np.fft.fftfreq(x.size, x[1] - x[0])
    unit = 1j * np.pi / (WAVELENGTH * 1e-4) / np.cos(THETA)
    turn = 2 * unit * np.sin(2 * THETA) * deviation

    def slope(z: float, packed: np.ndarray) -> np.ndarray:
        d0, dh = packed.reshape(2, -1)
        f = np.exp(1j * phase(z, x))
        drift0, drifth = np.fft.ifft(k * np.fft.fft([d0, dh]), axis=1) * np.tan(THETA)
        return np.concatenate(
            [
                drift0 + unit * (chi0 * d0 + chi_h * f * dh),
                -drifth + unit * (chi0 * dh + chi_h * f.conj() * d0) + turn * dh,
            ]
        )

    start = np.concatenate([incident, np.zeros_like(incident)]).astype(complex)
    found = solve_ivp(slope, (0, thickness), start, "DOP853", rtol=1e-7, atol=1e-9, t_eval=[thickness])
    d0, dh = found.y[:, -1].reshape(2, -1)
    return d0, dh


def test_lattice__runs_along_both_beams() -> None:
    depth, lateral, step = lattice(4, thickness=10.0, step=0.7, theta=THETA, start=-3.0)
    assert depth[0] == 0
    assert depth[-1] == pytest.approx(10)
    assert step <= 0.7
    assert step == pytest.approx(10 / np.cos(THETA) / 15)
    right, left = (step * np.sin(THETA), step * np.cos(THETA)), (-step * np.sin(THETA), step * np.cos(THETA))
    for n in range(15):
        rises = [(lateral[n + 1, j + n % 2] - lateral[n, j], depth[n + 1] - depth[n]) for j in range(3)]
        falls = [(lateral[n + 1, j + n % 2 - 1] - lateral[n, j], depth[n + 1] - depth[n]) for j in range(1, 4)]
        if n % 2:  # an odd row is half a cell to the right
            rises, falls = rises, [(lateral[n + 1, j] - lateral[n, j], depth[n + 1] - depth[n]) for j in range(4)]
        else:
            rises = [(lateral[n + 1, j] - lateral[n, j], depth[n + 1] - depth[n]) for j in range(4)]
        np.testing.assert_allclose(rises, [right] * len(rises))
        np.testing.assert_allclose(falls, [left] * len(falls))


@pytest.mark.parametrize("deformed", [False, True])
def test_takagi_taupin__conserves_flux(deformed: bool) -> None:
    """With a dark outside and a window that holds the whole fan."""
    depth, lateral, _ = lattice(301, thickness=60.0, step=0.5, theta=THETA, start=-23.0)
    incident = np.exp(-((lateral[0] / 0.9) ** 2)) * np.exp(3j * lateral[0])
    incident[np.abs(lateral[0]) > 6] = 0
    phase = edge(depth[:, None], lateral, 30.1) if deformed else None
    d0, dh = takagi_taupin(incident, phase, thickness=60.0, step=0.5, deviation=np.array([-1e-5, 0, 3e-5]), **CRYSTAL)
    flux = (np.abs(d0) ** 2 + np.abs(dh) ** 2).sum(1)
    np.testing.assert_allclose(flux, (np.abs(incident) ** 2).sum(), rtol=1e-11)
    assert (np.abs(dh) ** 2).sum(1).min() > 0.01 * flux[0]


def test_takagi_taupin__is_the_laue_plate_to_second_order() -> None:
    deviation = np.linspace(-4, 4, 81) * HALF_WIDTH
    errors = []
    for step in (1.0, 0.5, 0.25):
        _, dh = takagi_taupin(
            np.ones(5), thickness=1.75 * LENGTH, step=step, deviation=deviation, outside="plane", **CRYSTAL
        )
        exact = laue_plate(deviation, 1.75 * LENGTH, LENGTH, theta=THETA, wavelength=WAVELENGTH)
        assert np.ptp(np.abs(dh), axis=1).max() < 1e-12
        errors.append(np.abs(np.abs(dh[:, 2]) ** 2 - exact).max())
    assert errors[0] < 8e-3
    np.testing.assert_allclose(np.divide(errors[:-1], errors[1:]), 4, rtol=0.05)


def test_takagi_taupin__slit_source_is_bessel() -> None:
    """Amplitude i kap p J0 from one node of unit amplitude: no free factor."""
    thickness = 100.0
    _, lateral, step = lattice(421, thickness=thickness, step=0.25, theta=THETA)
    incident = np.zeros(421, complex)
    incident[210] = 1
    d0, dh = takagi_taupin(incident, thickness=thickness, step=0.25, **CRYSTAL)
    assert (np.abs(d0) ** 2 + np.abs(dh) ** 2).sum() == pytest.approx(1, abs=1e-12)
    x = lateral[-1] - lateral[0, 210]
    s0 = (thickness / np.cos(THETA) - x / np.sin(THETA)) / 2
    sh = thickness / np.cos(THETA) - s0
    inner = (s0 > 1) & (sh > 1)
    exact = slit_source(s0, sh, COUPLING)
    found = np.abs(dh) ** 2 / (COUPLING * step) ** 2
    assert np.sqrt(np.mean((found - exact)[inner] ** 2)) < 0.005 * np.sqrt(np.mean(exact[inner] ** 2))
    outer = (s0 < -2 * step) | (sh < -2 * step)
    assert outer.any()
    assert not np.abs(dh[outer]).any()


def test_takagi_taupin__whole_turns_of_the_phase_change_nothing() -> None:
    depth, lateral, _ = lattice(120, thickness=50.0, step=0.4, theta=THETA, start=-15.0)
    phase = edge(depth[:, None], lateral, 25.1)
    jumps = 2 * np.pi * np.random.default_rng(3).integers(-40, 40, phase.shape)
    kwargs: dict[str, Any] = {"thickness": 50.0, "step": 0.4, "outside": "plane", **CRYSTAL}
    plain = takagi_taupin(np.ones(120), phase, **kwargs)
    np.testing.assert_allclose(takagi_taupin(np.ones(120), phase + jumps, **kwargs), plain, atol=1e-11)
    half = takagi_taupin(np.ones(120), phase + jumps / 2, **kwargs)
    assert np.abs(half[1] - plain[1]).max() > 0.1


@pytest.mark.parametrize(("deviation", "chi_h", "chi0"), [(0.0, CHI_H + 0j, 0j), (6e-6, CHI_H - 4e-7j, -5e-7j)])
def test_takagi_taupin__edge_dislocation_is_the_spectral_solution(
    deviation: float, chi_h: complex, chi0: complex
) -> None:
    """The tables' sign of Im chi is the conjugate of what the integrator, written for exp(+i k·r), needs."""
    thickness, half = 1.75 * LENGTH, 48.0
    at = thickness / 2 + 0.013
    nodes = int(2 * half / (0.25 * 2 * np.sin(THETA)))
    depth, lateral, _ = lattice(nodes, thickness=thickness, step=0.25, theta=THETA, start=-half)
    _, dh = takagi_taupin(
        np.ones(nodes),
        edge(depth[:, None], lateral, at),
        thickness=thickness,
        step=0.25,
        outside="plane",
        theta=THETA,
        wavelength=WAVELENGTH,
        chi_h=chi_h,
        chi0=chi0,
        deviation=deviation,
    )
    x = np.linspace(-half, half, 1024, endpoint=False)
    _, exact = spectral(
        np.ones(x.size), x, thickness, lambda z, x: edge(z, x, at), chi_h.conjugate(), chi0.conjugate(), deviation
    )
    inner = np.abs(x) < half - 3 * thickness * np.tan(THETA)
    found = CubicSpline(lateral[-1], dh)(x)
    error = np.linalg.norm((found - exact)[inner]) / np.linalg.norm(exact[inner])
    assert error < 0.005
    if chi0:  # the other sign of Im chi is another crystal
        _, other = spectral(
            np.ones(x.size), x, thickness, lambda z, x: edge(z, x, at), chi_h, chi0.conjugate(), deviation
        )
        assert np.linalg.norm((found - other)[inner]) > 0.05 * np.linalg.norm(exact[inner])


def test_takagi_taupin__rotation_and_strain_shift_the_rocking_curve() -> None:
    """A lattice turned by w towards the beam is met at a glancing angle larger by w; strain e lowers Bragg's angle."""
    deviation = np.linspace(-3, 3, 25) * HALF_WIDTH
    depth, lateral, _ = lattice(200, thickness=40.0, step=0.25, theta=THETA)
    kwargs: dict[str, Any] = {"thickness": 40.0, "step": 0.25, "outside": "plane", **CRYSTAL}

    def curve(phase: np.ndarray | None, shift: float = 0.0) -> np.ndarray:
        return np.abs(takagi_taupin(np.ones(200), phase, deviation=deviation + shift, **kwargs)[1][:, 100]) ** 2

    turn, strain = 7e-6, 3e-5
    np.testing.assert_allclose(curve(Q * turn * np.broadcast_to(depth[:, None], lateral.shape)), curve(None, turn))
    np.testing.assert_allclose(curve(Q * strain * lateral), curve(None, strain * np.tan(THETA)), atol=1e-11)
    assert np.abs(curve(None, turn) - curve(None)).max() > 0.3


def test_takagi_taupin__absorbs() -> None:
    """exp(-mu t / cos) for chi0; Borrmann's effect |sin kap t|² with complex kap for chi_h."""
    path = 50.0 / np.cos(THETA)
    chi0, chi_h = -3.752e-6 - 1.51e-7j, CHI_H - 1.45e-7j
    mu = 2 * np.pi * 1.51e-7 / (WAVELENGTH * 1e-4)
    kwargs: dict[str, Any] = {"thickness": 50.0, "theta": THETA, "wavelength": WAVELENGTH, "outside": "plane"}
    for chi in (CHI_H, chi_h):
        d0, dh = takagi_taupin(np.ones(4), chi_h=chi, chi0=chi0, step=0.1, **kwargs)
        phase = np.pi * complex(chi) / (WAVELENGTH * 1e-4) * path
        np.testing.assert_allclose(np.abs(d0) ** 2, np.abs(np.cos(phase)) ** 2 * np.exp(-mu * path), rtol=2e-3)
        np.testing.assert_allclose(np.abs(dh) ** 2, np.abs(np.sin(phase)) ** 2 * np.exp(-mu * path), rtol=2e-3)


def test_takagi_taupin__has_no_crystal_where_the_phase_is_nan() -> None:
    depth, lateral, step = lattice(6, thickness=40.0, step=0.25, theta=THETA)
    phase = np.zeros(lateral.shape)
    phase[:41] = np.nan
    kwargs: dict[str, Any] = {"thickness": 40.0, "step": 0.25, "outside": "plane", **CRYSTAL}
    _, dh = takagi_taupin(np.ones(6), phase, chi0=-3e-6 - 1e-7j, **kwargs)
    within = (len(depth) - 1 - 41 + 0.5) * step  # path from half a step before the first node within
    mu = 2 * np.pi * 1e-7 / (WAVELENGTH * 1e-4)
    exact = np.sin(COUPLING * within) ** 2 * np.exp(-mu * within)
    np.testing.assert_allclose(np.abs(dh) ** 2, exact, rtol=5e-3)
    d0, dh = takagi_taupin(np.ones(6), np.full(lateral.shape, np.nan), chi0=-3e-6 - 1e-7j, **kwargs)
    assert not np.abs(dh).any()
    np.testing.assert_array_equal(d0, 1)


def test_takagi_taupin__angles_together_are_angles_alone() -> None:
    depth, lateral, _ = lattice(90, thickness=30.0, step=0.4, theta=THETA, start=-11.0)
    phase = edge(depth[:, None], lateral, 15.1)
    angles = np.array([-2e-5, 1e-6, 3e-5])
    kwargs: dict[str, Any] = {"thickness": 30.0, "step": 0.4, **CRYSTAL}
    incident = np.where(np.abs(lateral[0]) < 3, 1.0, 0.0)
    together = takagi_taupin(incident, phase, deviation=angles, **kwargs)
    for k, angle in enumerate(angles):
        np.testing.assert_array_equal(
            [wave[k] for wave in together], takagi_taupin(incident, phase, deviation=angle, **kwargs)
        )


def test_section_image__of_all_angles_is_incoherent_along_the_entry() -> None:
    """Parseval: all angles together light each point of the entry on its own. Flux in absolute units."""
    thickness, sheet, spacing = 80.0, 0.21, 2e-5
    deviations = np.arange(-3e-4, 3.001e-4, spacing)
    s0, image = section_image(thickness=thickness, sheet=sheet, deviations=deviations, step=0.125, **CRYSTAL)
    entry = np.linspace(-6, 6, 241) * sheet / np.cos(THETA)
    weight = np.exp(-0.5 * (entry * np.cos(THETA) / sheet) ** 2)
    path, back = thickness / np.cos(THETA), entry / (2 * np.sin(THETA))
    expected = np.sum(
        [w * slit_source(s0 + s, path - s0 - s, COUPLING) for w, s in zip(weight / weight.sum(), back, strict=True)], 0
    )
    expected *= WAVELENGTH * 1e-4 * COUPLING**2 / np.sin(2 * THETA)  # integrated over the angle of incidence
    inner = (s0 > 4) & (s0 < path - 4)
    found = image * len(deviations) * spacing
    assert np.linalg.norm((found - expected)[inner]) < 0.002 * np.linalg.norm(expected[inner])
    coarse = section_image(
        thickness=thickness, sheet=sheet, deviations=deviations[::2], step=0.125, weights=np.full(16, 2.0), **CRYSTAL
    )[1]
    assert np.linalg.norm(coarse * len(coarse[:16]) * 2 * spacing - found) < 0.005 * np.linalg.norm(found)


def test_section_image__shows_a_thin_slab_where_the_sheet_cuts_it() -> None:
    """Back-projection: a slab of crystal at one depth lights up at that place along the beam."""
    for at in (8.0, 25.0):
        s0, image = section_image(
            lambda depth, lateral, at=at: np.where((np.abs(depth - at) < 0.6) & (lateral < 50), 0.0, np.nan),
            thickness=40.0,
            sheet=0.2,
            deviations=np.linspace(-1e-4, 1e-4, 11),
            step=0.2,
            **CRYSTAL,
        )
        assert np.average(s0, weights=image) * np.cos(THETA) == pytest.approx(at, abs=0.1)  # half a step


def test_section_image__sees_a_dislocation() -> None:
    kwargs: dict[str, Any] = {"thickness": 60.0, "sheet": 0.2, "deviations": np.linspace(-1e-4, 1e-4, 11), **CRYSTAL}
    s0, perfect = section_image(**kwargs)
    _, image = section_image(lambda z, x: edge(z, x + z * np.tan(THETA), 30.1), **kwargs)
    change = np.abs(image - perfect)
    assert abs(s0[change.argmax()] - 30.1 / np.cos(THETA)) < 5
    assert change.max() > perfect.mean()


BAD = [
    ({"chi_h": 0.0}, "not coupled"),
    ({"polarisation": 0.0}, "not coupled"),
    ({"step": 0.0}, "step = 0 um: is not positive"),
    ({"step": -1.0}, "step = -1 um: is not positive"),
    ({"thickness": 0.1}, "less than one step"),
    ({"thickness": np.nan}, "less than one step"),
    ({"phase": np.zeros((3, 5))}, r"phase of shape \(3, 5\): the lattice has .* = \(42, 5\)"),
    ({"phase": np.full((42, 5), np.inf)}, "infinite at some node"),
    ({"incident": np.ones((2, 5))}, "not a row of finite amplitudes"),
    ({"incident": np.array([1, np.nan])}, "not a row of finite amplitudes"),
    ({"theta": 0.0}, "no Bragg angle"),
    ({"wavelength": 0.0}, "wavelength = 0: is not positive"),
    ({"deviation": 1e-3}, "more than pi/2 .* take a step of at most 0.059"),
    ({"deviation": np.nan}, "more than pi/2"),
    ({"outside": "dim"}, "set 'dark' or 'plane'"),
]


@pytest.mark.parametrize(("change", "message"), BAD)
def test_takagi_taupin__refuses(change: dict[str, Any], message: str) -> None:
    asked = {"incident": np.ones(5), "thickness": 10.0, "step": 0.25, **CRYSTAL}
    takagi_taupin(**asked)
    with pytest.raises(InputError, match=message):
        takagi_taupin(**{**asked, **change})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sheet": 0.0}, "sheet = 0 um"),
        ({"deviations": np.empty(0)}, "not two rows of one length"),
        ({"weights": np.ones(3)}, "not two rows of one length"),
        ({"weights": np.array([1.0, -1.0])}, "negative, zero or not finite"),
        ({"weights": np.zeros(2)}, "negative, zero or not finite"),
        ({"chi_h": 0.0}, "not coupled"),
    ],
)
def test_section_image__refuses(change: dict[str, Any], message: str) -> None:
    asked: dict[str, Any] = {"thickness": 10.0, "sheet": 0.2, "deviations": np.zeros(2), **CRYSTAL}
    with pytest.raises(InputError, match=message):
        section_image(**{**asked, **change})


def test_lattice__refuses_an_impossible_angle() -> None:
    with pytest.raises(InputError, match=r"lattice: theta = 2 rad: no Bragg angle"):
        lattice(3, thickness=1.0, step=0.1, theta=2.0)


def test_laue_plate__refuses() -> None:
    with pytest.raises(InputError, match="extinction length 0 um"):
        laue_plate(np.zeros(2), 10.0, 0.0, theta=THETA, wavelength=WAVELENGTH)
    with pytest.raises(InputError, match="wavelength = -1"):
        laue_plate(np.zeros(2), 10.0, 30.0, theta=THETA, wavelength=-1.0)


def test_laue_plate__integral_of_a_thick_plate() -> None:
    """pi / 2 times the half width C |chi_h| / sin(2 theta), on average over the thickness."""
    deviation = np.linspace(-400, 400, 80001) * HALF_WIDTH
    thickness = LENGTH * np.linspace(20, 21, 12, endpoint=False)[:, None]
    curve = laue_plate(deviation, thickness, LENGTH, theta=THETA, wavelength=WAVELENGTH).mean(0)
    assert curve.sum() * (deviation[1] - deviation[0]) == pytest.approx(np.pi / 2 * HALF_WIDTH, rel=0.01)
    assert LENGTH == pytest.approx(28.93, abs=0.01)
