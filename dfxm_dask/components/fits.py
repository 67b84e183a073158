"""Common parts of all fits to the curves of lit pixels: parameters, inputs, and the first part of their summary."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from dfxm_dask.components.curves import (
    Kind,
    Summary,
    add_summaries,
    basis_variables,
    dark_level,
    scaling_of,
    summarise,
)
from dfxm_dask.errors import InputError
from dfxm_dask.reduction import Reduction, reduction
from dfxm_dask.schema import AXES, BACKGROUND, COUNTS, LIT, SCAN, Variable

Count = Annotated[int, Field(ge=1, description="number of components")]
Offset = Annotated[
    float | None,
    Field(description="added before root or logarithm; by default 3/8 and 1", json_schema_extra={"unit": "count"}),
]

Y_AT = Variable("y", ("y",), "float64", "", "position along y, in any unit")
X_AT = Variable("x", ("x",), "float64", "", "position along x, in any unit")
Z_AT = Variable("z", ("z",), "float64", "", "position along z, in any unit")
POSITION = (Z_AT, Y_AT, X_AT)  # optional inputs of a fit: the positions of pixels determine the sampled curves


def fit(
    method: str, finish: Callable[[Summary], Summary], report: tuple[Variable, ...]
) -> Callable[[Callable[..., Summary]], Reduction]:
    """Declaration of a fit by its summary, which adds up over layers, and its ``finish``.

    Parameters
    ----------
    report : tuple of Variable
        Variables of the fit other than its basis.
    """
    return reduction(
        reads=(COUNTS, AXES),
        may_read=(BACKGROUND, LIT, *POSITION),
        writes=(*basis_variables(method), *report),
        over=(SCAN,),
        combine=add_summaries,
        finish=finish,
        positions="common",
    )


def summary_of_fit(
    method: str,
    counts: np.ndarray,
    scan: dict[str, np.ndarray],
    background_map: np.ndarray | None,
    lit: np.ndarray | None,
    position: tuple[np.ndarray | None, np.ndarray | None, np.ndarray | None],
    *,
    components: int,
    scaling: Kind,
    offset: float | None,
    background: float | Literal["none"] | None,
) -> Summary:
    """The summary of a layer, or of a part, with the number of components; see :func:`summarise` for the rest.

    Raises
    ------
    InputError
        More components than frames; no background; an offset that does not suit the scaling.
    """
    frames = int(np.prod(counts.shape[2:]))
    if components > frames:
        raise InputError(
            f"{method}: parameter components={components}",
            f"the scan has {frames} frames",
            f"choose at most {frames}",
        )
    treatment = scaling_of(method, scaling, offset, background, background_map)
    level = dark_level(method, treatment, background_map, counts.shape[:2])
    return summarise(counts, scan, lit, level, treatment, *position) | {"option_components": np.array(components)}
