"""All reductions: those of the rooms, and those of other packages."""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points

from dfxm_dask.errors import RecipeError
from dfxm_dask.reduction import REGISTRY, Reduction
from dfxm_dask.schema import nearest

ROOMS = tuple(
    f"dfxm_dask.{room}"
    for room in ("frames", "rocking", "beams", "components", "volume", "boundaries", "dynamics", "strain", "identify")
)
"""Sub-packages with reductions, in the order of the steps of a recipe, so that a short recipe loads few of them."""


def load_reductions() -> dict[str, Reduction]:
    """All reductions: those of the rooms, and those of packages with an entry point ``dfxm_dask.reductions``."""
    for room in ROOMS:
        import_module(room)  # registers its reductions
    for point in entry_points(group="dfxm_dask.reductions"):
        point.load()
    return REGISTRY


def find(name: str) -> Reduction:
    """The reduction of that name.

    Raises
    ------
    RecipeError
        No reduction has this name; the text suggests the nearest one.
    """
    if all(
        known.kernel.__module__.startswith(ROOMS) for known in REGISTRY.values()
    ):  # else a plug-in may have taken a name
        for room in ROOMS:
            if name in REGISTRY:
                break
            import_module(room)
    if name in REGISTRY:
        return REGISTRY[name]
    known = load_reductions()
    if name not in known:
        raise RecipeError(f"reduction {name!r}", f"is unknown{nearest(name, known)}", "see `dfxm-dask reductions`")
    return known[name]
