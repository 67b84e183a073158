"""Resolution function against another code, numerical integrals, and random rays."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numba import njit
from scipy.special import erf

from dfxm_dask.errors import InputError
from dfxm_dask.optics.instrument.microscope import MICROSCOPES, Microscope, find_microscope
from dfxm_dask.optics.resolution import (
    NARROW,
    acceptance,
    coefficients,
    resolution,
    rocking_coefficients,
    transfer_matrix,
)
from tests.references.rays import rays, rocking_profile

REFERENCE = Path(__file__).parents[1] / "references" / "resolution.npz"
AL111 = MICROSCOPES["id06_al111"]


def reference_microscope(values: np.lib.npyio.NpzFile, tag: str) -> Microscope:
    theta, eta = values[f"{tag}_theta_eta"]
    return Microscope(
        energy=17.0,
        theta=float(theta),
        eta=float(eta),
        divergence_v=float(values["zeta_v_fwhm"]) / 2.355,
        divergence_v_cut=float(values["zeta_v_clip"]),
        aperture=float(values["NA_rms"]),
        bandwidth=float(values["eps_rms"]),
    )


def integrated(q: np.ndarray, microscope: Microscope) -> tuple[float, float]:
    """Logarithm of the integral of N(q - m z; C) f(z) over z, with f = 1 at z = 0, and the offset of its maximum.

    By panels round the maximum of the integrand: good far out, where the integral itself is below 1e-300.
    """
    matrix = transfer_matrix(microscope)
    rms = [microscope.bandwidth, 0, microscope.divergence_h, microscope.aperture, microscope.aperture]
    inverse = np.linalg.inv(matrix * np.square(rms) @ matrix.T)
    sharp = 0.0 if microscope.divergence_profile == "uniform" else 1 / microscope.divergence_v**2

    def exponent(z: np.ndarray) -> np.ndarray:
        rest = q - np.multiply.outer(z, matrix[:, 1])
        return -0.5 * (np.einsum("...i,ij,...j", rest, inverse, rest) + sharp * z**2)

    curvature = matrix[:, 1] @ inverse @ matrix[:, 1] + sharp
    cut = microscope.divergence_v_cut
    top = float(np.clip(matrix[:, 1] @ inverse @ q / curvature, -cut, cut))
    # Down to e^-45 of the maximum, which lies at the cut or inside.
    reach = 10 / np.sqrt(curvature)
    edges = np.unique(np.clip(top + reach * np.linspace(-1, 1, 81), -cut, cut))
    nodes, weights = np.polynomial.legendre.leggauss(20)
    half = np.diff(edges)[:, None] / 2
    z = (edges[:-1, None] + half * (1 + nodes)).ravel()
    highest = float(exponent(np.array(top)))
    return highest + float(np.log((half * weights).ravel() @ np.exp(exponent(z) - highest))), top


@pytest.mark.parametrize("tag", ["al111", "al113_oblique"])
def test_resolution__agrees_with_another_code(tag: str) -> None:
    with np.load(REFERENCE) as values:
        microscope = reference_microscope(values, tag)
        np.testing.assert_allclose(transfer_matrix(microscope), values[f"{tag}_M"], atol=1e-13)
        p = resolution(values[f"{tag}_q"].T, microscope)
        np.testing.assert_allclose(p, values[f"{tag}_p"], rtol=0, atol=1e-12)
        assert (p > 0.1).sum() > 10
        assert (p < 0.05).sum() > 10


def test_transfer_matrix__follows_the_rays() -> None:
    """q from first order optics: turn, tilt and lengthen the scattering vector by hand."""
    theta = AL111.theta
    s, c = np.sin(theta), np.cos(theta)
    for ray in np.random.default_rng(0).normal(0, 1e-4, (20, 5)):
        eps, zeta_v, zeta_h, d2, xi = ray
        rock, roll, par = -(zeta_v + d2) / 2, -(zeta_h + xi) / (2 * s), eps + c / s * (d2 - zeta_v) / 2
        turned = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ [rock, roll, par]
        np.testing.assert_allclose(transfer_matrix(AL111) @ ray, turned, atol=1e-18)


@pytest.mark.parametrize("name", sorted(MICROSCOPES))
def test_resolution__is_the_integral_over_the_divergence(name: str) -> None:
    """To 1e-9 of itself, from the peak out to where it underflows."""
    microscope = find_microscope(name)
    matrix = transfer_matrix(microscope)
    centre, _ = integrated(np.zeros(3), microscope)
    far = 0
    for ray in np.random.default_rng(1).normal(size=(60, 5)) * [1, 0, 1, 1, 1]:
        scale = np.array([microscope.bandwidth, 0, microscope.divergence_h, microscope.aperture, microscope.aperture])
        for zeta in (0.0, 0.9e-4, 1.5e-4, 3e-4, -3.6e-4, 4.7e-4):
            q = matrix @ (3 * ray * scale + [0, zeta, 0, 0, 0])
            logarithm = integrated(q, microscope)[0] - centre
            if logarithm < -690:
                continue
            far += logarithm < -100
            # np.exp itself loses the digits of a large logarithm.
            assert np.log(resolution(q, microscope)) == pytest.approx(logarithm, abs=1e-9)
    assert far > 20


def test_resolution__keeps_its_digits_in_a_narrow_band() -> None:
    """C^-1 is 1e8 times K here: their difference would have no digits."""
    microscope = replace(MICROSCOPES["al002"], bandwidth=1e-9)
    inside = transfer_matrix(microscope) @ [0, 2e-4, 0, 1e-4, 0]
    logarithm = integrated(inside, microscope)[0] - integrated(np.zeros(3), microscope)[0]
    assert np.log(resolution(inside, microscope)) == pytest.approx(-0.5 * (1e-4 / microscope.aperture) ** 2, abs=1e-9)
    assert logarithm == pytest.approx(-0.5 * (1e-4 / microscope.aperture) ** 2, abs=1e-2)


def test_resolution__far_out_is_zero() -> None:
    q = np.concatenate([np.eye(3) * scale for scale in (-1e200, -1.0, 0.5, 1.0, 1e6, 1e160)])
    for microscope in (*MICROSCOPES.values(), replace(AL111, divergence_v_cut=np.inf)):
        assert (resolution(q, microscope) == 0).all()


@pytest.mark.parametrize("name", ["id06_al111", "al002", "oblique_al113"])
def test_resolution__integrates_to_one_and_its_marginal_is_the_rocking_profile(name: str) -> None:
    microscope = replace(find_microscope(name), bandwidth=1.5e-4)  # wide, so that a coarse grid is exact
    matrix = transfer_matrix(microscope)
    limit = min(microscope.divergence_v_cut, 7 * microscope.divergence_v)
    tails = np.abs(matrix) @ [1e-3, limit, 7 * microscope.divergence_h, 2.1e-3, 2.1e-3]
    axes = [np.linspace(-width, width, n) for width, n in zip(tails, (81, 121, 121), strict=True)]
    q = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1)
    steps = [axis[1] - axis[0] for axis in axes]
    marginal = resolution(q, microscope, absolute=True).sum(axis=(1, 2)) * steps[1] * steps[2]
    profile = rocking_profile(axes[0], microscope, absolute=True)
    np.testing.assert_allclose(marginal, profile, atol=1e-6 * profile.max())
    assert profile.sum() * steps[0] == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(profile / profile.max(), rocking_profile(axes[0], microscope), atol=1e-12)


@pytest.mark.parametrize("name", ["id06_al111", "al002", "oblique_al113"])
def test_rays__follow_the_closed_form(name: str) -> None:
    microscope = find_microscope(name)
    n = 200_000
    ray = rays(microscope, n, seed=7)
    q = ray @ transfer_matrix(microscope).T
    limit = np.abs(q[:, 0]).max()
    edges = np.linspace(-limit, limit, 61)
    nodes, weights = np.polynomial.legendre.leggauss(12)
    half = (edges[1] - edges[0]) / 2
    middle = (edges[1:] + edges[:-1]) / 2
    expected = n * half * rocking_profile(middle[:, None] + half * nodes, microscope, absolute=True) @ weights
    counted, _ = np.histogram(q[:, 0], edges)
    good = expected > 20
    assert good.sum() > 20
    chi2 = ((counted - expected)[good] ** 2 / expected[good]).sum() / good.sum()
    assert 0.5 < chi2 < 1.6
    # In three dimensions: a share of rays in a soft box, and the density averaged over that box by other random points.
    width = q.std(axis=0)
    points = np.random.default_rng(3).normal(0.3 * width, 0.8 * width, (n, 3))
    share = np.exp(-0.5 * (((q - 0.3 * width) / (0.8 * width)) ** 2).sum(axis=1)) / np.prod(0.8 * width)
    density = (2 * np.pi) ** 1.5 * resolution(points, microscope, absolute=True)
    error = np.hypot(share.std(), density.std()) / np.sqrt(n)
    assert share.mean() == pytest.approx(density.mean(), abs=4 * error)
    assert error < 0.02 * share.mean()


def test_rays__stop_at_the_cut_and_at_the_aperture() -> None:
    stop = 2 * np.sqrt(50e-6 * 1.6e-3) / (2 * 0.274)
    ray = rays(AL111, 50_000, seed=1, aperture=stop / 4)
    assert np.abs(ray[:, 1]).max() <= 1.4e-4
    assert np.abs(ray[:, 3:]).max() <= stop / 4
    assert (ray[:, 2] == 0).all()
    assert ray[:, 0].std() == pytest.approx(6e-5, rel=0.02)
    np.testing.assert_array_equal(ray, rays(AL111, 50_000, seed=1, aperture=stop / 4))
    free = rays(AL111, 50_000, seed=1)
    assert free[:, 3].std() == pytest.approx(AL111.aperture, rel=0.02)
    spread = rays(MICROSCOPES["al002"], 50_000, seed=2)[:, 1]
    assert spread.std() == pytest.approx(5.3e-4 / np.sqrt(12), rel=0.01)


def test_uniform_profile__is_the_limit_of_a_wide_gaussian() -> None:
    uniform = MICROSCOPES["al002"]
    wide = replace(uniform, divergence_profile="gaussian", divergence_v=10.0, divergence_v_cut=2.65e-4)
    q = np.random.default_rng(8).normal(0, 1e-4, (500, 3)) * [1, 8, 8]
    np.testing.assert_allclose(resolution(q, uniform), resolution(q, wide), rtol=1e-8)
    # In one dimension: a box of half width cos(theta) 2.65e-4 convolved with a Gaussian.
    c, s = np.cos(uniform.theta), np.sin(uniform.theta)
    x = np.linspace(-3e-4, 3e-4, 101)
    edge, blur = c * 2.65e-4, np.sqrt(2) * np.hypot(s * 6e-5, 1.34e-5)
    box = (erf((edge - x) / blur) + erf((edge + x) / blur)) / (2 * erf(edge / blur))
    np.testing.assert_allclose(rocking_profile(x, uniform, blur=1.34e-5), box, atol=1e-13)


def test_divergence__without_it_all_is_gaussian() -> None:
    still = replace(AL111, divergence_v=0.0, divergence_v_cut=np.inf)
    matrix = transfer_matrix(still)[:, [0, 3, 4]]
    covariance = matrix @ np.diag(np.square([still.bandwidth, still.aperture, still.aperture])) @ matrix.T
    q = np.random.default_rng(9).multivariate_normal(np.zeros(3), covariance, 50)
    gauss = np.exp(-0.5 * np.einsum("ni,ij,nj->n", q, np.linalg.inv(covariance), q))
    np.testing.assert_allclose(resolution(q, still), gauss, rtol=1e-9)
    density = gauss / np.sqrt(np.linalg.det(2 * np.pi * covariance))
    np.testing.assert_allclose(resolution(q, still, absolute=True), density, rtol=1e-9)
    # A Gaussian that is not cut is one more Gaussian ray.
    uncut = replace(AL111, divergence_v_cut=np.inf)
    column = transfer_matrix(uncut)[:, 1]
    covariance = covariance + uncut.divergence_v**2 * np.outer(column, column)
    q = np.random.default_rng(9).multivariate_normal(np.zeros(3), covariance, 50)
    gauss = np.exp(-0.5 * np.einsum("ni,ij,nj->n", q, np.linalg.inv(covariance), q))
    np.testing.assert_allclose(resolution(q, uncut), gauss, rtol=1e-9)


def test_divergence__narrow_cuts_join_the_gaussian() -> None:
    """Just above and just below the cut at which the window is left out."""
    unit = replace(AL111, divergence_v_cut=1e-6)
    per_cut = coefficients(unit)[9] / 1e-6
    q = np.random.default_rng(10).normal(0, 1e-5, (200, 3)) * [5, 60, 60]
    above, below = (resolution(q, replace(AL111, divergence_v_cut=f * NARROW / per_cut)) for f in (1 + 1e-6, 1 - 1e-6))
    assert (below > 1e-20).sum() > 100
    np.testing.assert_allclose(above, below, rtol=1e-9)


@njit
def _total(q, numbers):  # type: ignore[no-untyped-def]
    total = 0.0
    for i in range(q.shape[0]):
        total += acceptance(q[i, 0], q[i, 1], q[i, 2], numbers)
    return total


def test_acceptance__runs_inside_another_kernel_and_per_point() -> None:
    q = np.random.default_rng(11).normal(0, 1e-4, (300, 3))
    whole = resolution(q, AL111)
    assert _total(q, coefficients(AL111)) == pytest.approx(whole.sum(), rel=1e-12)
    np.testing.assert_array_equal(np.concatenate([resolution(q[:7], AL111), resolution(q[7:], AL111)]), whole)
    np.testing.assert_array_equal(resolution(q.reshape(20, 15, 3), AL111), whole.reshape(20, 15))
    assert resolution(np.zeros(3), AL111).shape == ()


def test_resolution__refuses_degenerate_microscopes() -> None:
    still = replace(AL111, divergence_v=0.0, bandwidth=0.0)
    for microscope in (still, replace(AL111, bandwidth=0.0), replace(AL111, aperture=0.0)):
        with pytest.raises(InputError, match="accepts a surface of no thickness"):
            resolution(np.zeros(3), microscope)
    with pytest.raises(InputError, match="accepts a surface of no thickness"):
        rocking_profile(0.0, still)
    assert rocking_profile(0.0, replace(still, divergence_v=1e-4), blur=1e-6) == 1
    with pytest.raises(InputError, match=r"deviations of shape \(2,\): are not vectors"):
        resolution(np.zeros(2), AL111)
    with pytest.raises(InputError, match="rocking profile: blur -1: is negative"):
        rocking_coefficients(AL111, -1)
    with pytest.raises(InputError, match="0 rays: are none"):
        rays(AL111, 0, seed=1)
    with pytest.raises(InputError, match="aperture of 0 rad: lets nothing pass"):
        rays(AL111, 1, seed=1, aperture=0)


def test_microscope__refuses_what_cannot_be() -> None:
    with pytest.raises(InputError, match=r"microscope 'id06': is not known.*take one of"):
        find_microscope("id06")
    for name, value, found in (
        ("energy", 0.0, "is not positive"),
        ("pixel", np.nan, "is not positive"),
        ("theta", 0.0, "is not between 0 and pi/4"),
        ("theta", 1.0, "is not between 0 and pi/4"),
        ("eta", 2.0, "is not within"),
        ("divergence_v", -1e-4, "is negative or not finite"),
        ("divergence_h", np.inf, "is negative or not finite"),
        ("aperture", -1e-4, "is negative or not finite"),
        ("bandwidth", np.nan, "is negative or not finite"),
        ("sheet", -0.1, "is negative or not finite"),
        ("divergence_v_cut", 0.0, "is not positive"),
        ("divergence_profile", "box", "is not known; take one of"),
        ("detector", "tilted", "is not known; take one of"),
    ):
        with pytest.raises(InputError, match=f"microscope: {name} .*{found}"):
            replace(AL111, **{name: value})
    with pytest.raises(InputError, match="is not half the full width of the uniform profile"):
        replace(MICROSCOPES["al002"], divergence_v_cut=1e-4)
    with pytest.raises(InputError, match="uniform divergence_v 0: has no width"):
        replace(AL111, divergence_profile="uniform", divergence_v=0.0, divergence_v_cut=np.inf)


def test_microscopes__are_the_published_ones() -> None:
    # Half width at which a perfect lattice leaves the acceptance, and the softness of that flank.
    half, soft = np.cos(AL111.theta) * 1.4e-4, np.sin(AL111.theta) * 6e-5
    assert half == pytest.approx(1.38e-4, abs=5e-7)
    assert soft == pytest.approx(0.94e-5, abs=1e-7)
    tilt = np.cos(AL111.theta) * np.array([0.0, 1e-4, 2e-4, 3e-4])
    assert rocking_profile(tilt, AL111)[2] < 1e-6
    assert rocking_profile(tilt, AL111)[0] == 1
    assert MICROSCOPES["brennan_al002"].divergence_v_cut == pytest.approx(2.618e-4, abs=1e-7)
    assert MICROSCOPES["brennan_al002"].sheet == pytest.approx(0.254777, abs=1e-6)
    assert np.degrees(MICROSCOPES["oblique_al113"].eta) == pytest.approx(20.233)
