"""Whether `has_weak_beam` and `has_defects` of the recipe weak_beam are right on simulated layers.

``PYTHONPATH=scripts python scripts/evaluate/verdicts.py easy empty --seeds 5000 5014`` prints one line for each layer:
both verdicts, the strength of the mask, and the recall, which is the share of the visible lines (Burgers vector out of
the reflecting planes) within 1 um of the mask. ``--normalise`` replaces ``normalise: {}``, for example by
``{by: monitor, offset: 106}``. Thresholds were chosen on seeds 3000 to 3011; rates in docstrings are of later seeds.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from score_beams import ON_LINE, TAU, seen_distance

import dfxm_dask
from dfxm_dask.phantoms.presets import build
from dfxm_dask.run.recipe import parse_recipe
from dfxm_dask.volume.compare import nearest_distances

STEPS = """name: verdicts
steps:
  - normalise: {normalise}
  - background: {{method: quantile, quantile: 0.1}}
  - zingers: {{}}
  - local_peak: {{}}
  - integrate_beams: {{}}
  - enhance_beams: {{}}
  - isolate_lines: {{}}
  - threshold_beams: {{}}
"""


def verdicts(preset: str, seed: int, layers: int, shape: tuple[int, int], normalise: str) -> list[str]:
    """One line for each layer of a scan."""
    (phantom,) = build(preset, layers=layers, shape=shape, seed=seed)
    out = []
    with tempfile.TemporaryDirectory() as folder:
        store = Path(folder, "scan.zarr")
        dfxm_dask.simulate(preset, store, layers=layers, shape=shape, seed=seed)
        dfxm_dask.run_recipe(parse_recipe(STEPS.format(normalise=normalise), Path("verdicts.yaml")), store)
        beams = dfxm_dask.open_scan(store)["beams"]
        y, x = beams.y.values, beams.x.values
        for k, z in enumerate(phantom.z):
            layer, mask = beams.isel(z=k), beams.defects[k].values
            away = seen_distance(replace(phantom, z=(z,)), y, x)
            lines = layer.lit.values & (away < max(ON_LINE, y[1] - y[0], x[1] - x[0]))
            recall = 0.0 if lines.any() else float("nan")
            if lines.any() and mask.any():
                recall = float((nearest_distances(lines, mask, (y[1] - y[0], x[1] - x[0])) <= TAU).mean())
            words = (bool(layer[n]) for n in ("has_weak_beam", "has_defects"))
            out.append(
                f"{preset} {seed} {k}: {' '.join(map(str, words))} {float(layer.mask_strength):.2f} {recall:.2f}"
            )
    return out


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("presets", nargs="+")
    parser.add_argument("--seeds", type=int, nargs=2, default=(5000, 5014), help="first, and one after the last")
    parser.add_argument("--layers", type=int, default=1)
    parser.add_argument("--shape", type=int, nargs=2, default=(384, 144))
    parser.add_argument("--normalise", default="{}", help="parameters of normalise")
    given = parser.parse_args()
    print("preset seed layer: has_weak_beam has_defects mask_strength recall")
    for seed in range(*given.seeds):
        for preset in given.presets:
            print("\n".join(verdicts(preset, seed, given.layers, tuple(given.shape), given.normalise)), flush=True)


if __name__ == "__main__":
    main()
