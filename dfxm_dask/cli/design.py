"""The command that ranks sets of reflections before an experiment."""

from __future__ import annotations

import json
from typing import Any

import click

from dfxm_dask.cli.options import json_option, read_hkl
from dfxm_dask.cli.parameters import FieldType


def _errors(_: Any, __: Any, text: str) -> tuple[float | None, ...]:
    """``T,P,C`` in degree, with ``-`` for an axis without a scan."""
    try:
        found = tuple(None if part.strip() == "-" else float(part) for part in text.split(","))
        if len(found) != 3:
            raise ValueError
    except ValueError:
        raise click.BadParameter(f"{text!r} is not three errors such as 0.001,0.0005,- in degree") from None
    return found


def _range(_: Any, __: Any, text: str) -> tuple[float, float]:
    """``FIRST,LAST`` in degree."""
    try:
        first, last = (float(part) for part in text.split(","))
    except ValueError:
        raise click.BadParameter(f"{text!r} is not FIRST,LAST such as 4,15 in degree") from None
    return first, last


@click.command()
@click.option(
    "--lattice",
    metavar="{parameter: A, x: [h, k, l], z: [h, k, l]}",
    type=FieldType(dict),
    required=True,
    help="Cubic lattice: parameter A in um, and the crystal directions along x and z of the sample.",
)
@click.option("--energy", type=float, required=True, metavar="KEV", help="Photon energy, in keV.")
@click.option(
    "--hkl",
    metavar="H,K,L",
    multiple=True,
    callback=lambda c, p, texts: [read_hkl(c, p, text) for text in texts] or None,
    help="Reflection to choose from; repeat the option. [default: all within the limits]",
)
@click.option("--count", type=click.IntRange(1, 20), default=3, show_default=True, help="Reflections of a set.")
@click.option(
    "--errors",
    metavar="T,P,C",
    default="0.001,0.0005,0.0005",
    show_default=True,
    callback=_errors,
    help="Standard error of two_theta, phi and chi, in degree; - for an axis without a scan.",
)
@click.option(
    "--theta", metavar="FIRST,LAST", default="4,15", show_default=True, callback=_range, help="Bragg angles, in degree."
)
@click.option("--eta", type=float, default=45.0, show_default=True, help="Largest azimuth, in degree.")
@click.option("--largest", type=click.IntRange(1, 12), default=4, show_default=True, help="Largest index.")
@click.option(
    "--criterion",
    type=click.Choice(["rms", "worst", "condition"]),
    default="rms",
    show_default=True,
    help="Quantity that ranks the sets: rms or largest error of the components of F, or the condition number.",
)
@click.option("--best", type=click.IntRange(1), default=10, show_default=True, help="Number of sets to show.")
@json_option
def design(lattice: dict[str, Any], as_json: bool, **options: Any) -> None:
    """Rank sets of reflections before an experiment.

    The quantity is the predicted error of the deformation gradient. The sample turns by omega about the vertical, with
    mu = 0 (oblique geometry).

    \b
    Example:
      dfxm-dask design --lattice '{parameter: 4.05e-4, x: [1, 0, 0], z: [0, 0, 1]}' --energy 19.1 --theta 4,16
    """
    from dfxm_dask.optics.defects.lattice import Lattice
    from dfxm_dask.parameters import validated
    from dfxm_dask.strain.design import design as ranked
    from dfxm_dask.view.tables import say, show_table

    found = ranked(validated(Lattice, lattice), options.pop("energy"), **options)
    if as_json:
        click.echo(json.dumps({"sets": [one.as_dict() for one in found], "unit": "degree"}, indent=1, allow_nan=False))
        return
    rows = [
        (
            ", ".join(" ".join(map(str, hkl)) for hkl in one.hkl),
            *(f"{1e6 * value:.1f}" if value == value else "-" for value in (one.rms, one.worst)),
            f"{one.condition:.1f}" if one.condition == one.condition else "-",
            ", ".join(f"{angle:.1f}" for angle in one.omega),
            ", ".join(f"{angle:.1f}" for angle in one.eta),
            "; ".join(one.undetermined) or "-",
        )
        for one in found
    ]
    head = ("reflections", "rms (1e-6)", "worst (1e-6)", "condition", "omega", "eta", "undetermined")
    show_table("sets of reflections", head, rows, right=(1, 2, 3))
    say("errors of the components of F; angles in degree")
