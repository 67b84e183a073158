"""All reductions: those of the rooms, and those that other packages offer."""

from __future__ import annotations

from importlib.metadata import entry_points

from dfxm_dask.errors import RecipeError
from dfxm_dask.reduction import REGISTRY, Reduction
from dfxm_dask.schema import nearest


def load_reductions() -> dict[str, Reduction]:
    """All reductions: of the rooms, and of packages that offer them by the entry point ``dfxm_dask.reductions``."""
    import dfxm_dask.beams
    import dfxm_dask.boundaries
    import dfxm_dask.components
    import dfxm_dask.frames
    import dfxm_dask.rocking
    import dfxm_dask.volume  # noqa: F401  (importing a room registers its reductions)

    for point in entry_points(group="dfxm_dask.reductions"):
        point.load()
    return REGISTRY


def find(name: str) -> Reduction:
    """The reduction of that name.

    Raises
    ------
    RecipeError
        No reduction has it; the text names the nearest.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    known = load_reductions()
    if name not in known:
        raise RecipeError(f"reduction {name!r}", f"is unknown{nearest(name, known)}", "see `dfxm-dask reductions`")
    return known[name]
