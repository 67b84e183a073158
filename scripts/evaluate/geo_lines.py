"""Runs in an environment with dfxm-geo 3.0.0: phi scans of single edges and screws, for ``identify.py geo``.

    VENV/bin/python scripts/evaluate/geo_lines.py geo_lines.npz --lines 60

That package gives edges and screws only, as its mixed field is wrong. Lines alternate; screws have g·b other than zero.
Pixels of 0.04 x 0.12 um with 2 x 2 points, 17 heights over +-3 rms of a sheet of 0.2 um FWHM, columns along z: it has
no shear along the diffracted beam. 16 angles phi over +-0.03 degree, Al {111} at 17 keV, closed form of the resolution.
"""

from __future__ import annotations

import argparse
from dataclasses import fields

import numpy as np

HKL, ROWS, HEIGHTS, PARTS = (-1, 1, -1), 120, 17, 2
SHEET = 0.2
PLANES = np.array([[1, 1, 1], [-1, 1, 1], [1, -1, 1], [1, 1, -1]])


def main() -> None:
    """Command line."""
    from dfxm_geo.config import ReciprocalConfig
    from dfxm_geo.direct_space import forward_model as fm

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--lines", type=int, default=60)
    parser.add_argument("--seed", type=int, default=5)
    given = parser.parse_args()
    resolution = fm._load_analytic_resolution(ReciprocalConfig(hkl=HKL, keV=17.0, backend="analytic", beamstop=False))
    box = fm.build_instrument_context_from_config(psize=40e-9, zl_rms=SHEET / 2.355e6, Npixels=ROWS, Nsub=PARTS)
    within_x, within_y = (np.arange(n) // PARTS for n in (box.NN1, box.NN2))
    pixels = (within_y[None, :] * (box.NN1 // PARTS) + within_x[:, None]).ravel()
    changed = {f.name: getattr(box, f.name) for f in fields(box)}
    changed |= {"NN3": HEIGHTS, "zl_steps": HEIGHTS, "flat_indices": np.repeat(pixels, HEIGHTS)}
    context = fm.build_forward_context(resolution.analytic_eval.theta, resolution, HKL, instrument=type(box)(**changed))
    grain = context.geometry.Theta.T @ context.instrument.Us
    # The rays in um, as that package has them: mean over the points of a pixel.
    rays = context.geometry.rl.reshape(3, box.NN1, box.NN2, HEIGHTS)[..., HEIGHTS // 2] * 1e6
    x = rays[0].mean(1).reshape(-1, PARTS).mean(1)
    y = rays[1].mean(0).reshape(-1, PARTS).mean(1)
    phi = np.deg2rad(np.linspace(-0.03, 0.03, 16))
    rng = np.random.default_rng(given.seed)
    directions = np.array([[a, b, 0] for a in (1, -1) for b in (1, -1)])
    directions = np.concatenate([np.roll(directions, k, axis=1) for k in range(3)])
    images, burgers, lines, places = [], [], [], []
    for number in range(given.lines):
        screw = number % 2 == 1
        known = [b for b in directions if not screw or b @ np.array(HKL)]
        b = known[rng.integers(len(known))]
        n = PLANES[rng.choice(np.flatnonzero(PLANES @ b == 0))]
        place = [rng.uniform(-0.5, 0.5), rng.uniform(-0.8, 0.8), 0.0]
        across = np.cross(b, n)
        frame = fm._ud_matrix_from_bnt(tuple(map(int, b)), tuple(map(int, n)), tuple(map(int, across)))
        made = fm.DislocationPopulation(
            positions_um=np.array([place]),
            Ud=frame[None],
            sidecar=None,
            rotation_deg=np.array([90.0 if screw else 0.0]),
        )
        static = fm.precompute_forward_static(fm.Find_Hg_from_population(made, ctx=context)[0], context)
        images.append(np.stack([fm.forward_from_static(static, context, phi=p) for p in phi]).astype(np.float32))
        burgers.append(grain @ b * 4.0495e-4 / 2)
        direction = b if screw else across
        lines.append(grain @ direction / np.linalg.norm(direction))
        places.append(place)
        print(number, b, n, "screw" if screw else "edge", f"{images[-1].max():.3f}", flush=True)
    np.savez_compressed(
        given.out,
        images=np.array(images),
        phi=phi,
        y=y,
        x=x,
        grain=grain,
        burgers=np.array(burgers),
        lines=np.array(lines),
        places=np.array(places),
        screw=np.arange(given.lines) % 2 == 1,
    )


if __name__ == "__main__":
    main()
