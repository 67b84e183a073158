"""A reduction is one definition: a numpy kernel with a declaration of what it reads, writes, and keeps whole.

.. code-block:: python

    COM = Variable("com_{axis}", ("z", "y", "x"), "float32", "{units}", "centre of mass along {axis}")

    @reduction(reads=(COUNTS, AXES), writes=(COM,), over=("scan",))
    def moments(counts, scan, *, background: Annotated[float, Field(ge=0)] = 0.0):
        ...
        return {"com_phi": ...}

What a kernel sees
------------------
One layer: the dimension z is dropped, unless it is named in ``over`` or ``halo``. Scan axes come last, as a view.
``reads`` arrive as positional arguments, in order; ``may_read`` by keyword (``None`` where the Dataset has none).
A template (``com_{axis}``) or :data:`~dfxm_dask.schema.AXES` arrives as a dict keyed by axis name in storage order;
a template in ``may_read`` by the keyword ``com``, with the axes that the Dataset has, or ``None``.
A parameter may have the name of a variable in ``may_read``: it takes precedence unless it is ``None``.
Where the detector marks pixels as having no count (``masked``), the counts arrive as floats with NaN there.
It returns a dict from variable name to array: the declared dims without z, scan axes last there too.

Five words declare the shape
----------------------------
``over``     dims that must be whole in a block ("scan" = all scan axes). Everything else may be cut anywhere.
``halo``     number of neighbouring layers in z that the kernel sees on each side; edges are repeated by absence:
             the kernel sees fewer layers there, and is told the index of its own layer as ``middle``.
``patch``    edge in pixels of square tiles of (y, x) that must not be cut.
``combine``  for a gather: merges two summaries (the dicts that the kernel returns); must be associative. ``finish``
             then turns the last summary into the result. Summaries travel, images never do.

How long dims are
-----------------
Dims of an output are z, y, x, scan axes, dims of an input, or declared with their length: ``Dim("rgb", 3)``;
``Dim("pca_component", "components")`` by a parameter; ``Dim("patch_y", of="y", step=64)`` one for each tile. Only a
gather may write dims whose length the data tell (``"object"``): it has no lazy Dataset.

What its docstring says
-----------------------
A kernel's docstring has a first line, and sections of numpydoc. Arrays come as declared, one layer, so its Parameters
and Returns say only what declarations and descriptions of parameters do not tell. :mod:`dfxm_dask.engine.docstring`
puts both together for the caller. Where no formula is from literature, Notes end with "Our own definition."
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import ConfigDict, create_model

from dfxm_dask.engine.declaration import Arrays, Declaration, Positions, Settle
from dfxm_dask.engine.docstring import for_callers
from dfxm_dask.errors import InputError
from dfxm_dask.schema import SCAN, SPACE, Dim, Variable

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, eq=False, repr=False)
class Reduction(Declaration):
    """A function of a Dataset, made of a kernel: it returns a lazy Dataset. ``.kernel`` is the numpy function.

    Name, signature and docstring are those of a function: ``help``, ``inspect`` and completion read them.
    """

    def __post_init__(self) -> None:
        dataset = inspect.Parameter("dataset", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation="xarray.Dataset")
        given = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=f.get_default(), annotation=f.annotation)
            for name, f in self.parameters.model_fields.items()
        ]
        known = {
            "__name__": self.name,
            "__qualname__": self.name,
            "__module__": self.kernel.__module__,
            "__signature__": inspect.Signature([dataset, *given], return_annotation="xarray.Dataset"),
            "__doc__": for_callers(self),
        }
        self.__dict__.update(known)  # the class is frozen

    def __repr__(self) -> str:
        return f"<reduction {self.__module__}.{self.name}>"

    def __get__(self, instance: Any, owner: type | None = None) -> Reduction:
        """Itself: what has this method is a routine to ``help`` and ``doctest``, as functions are."""
        return self

    def __call__(self, dataset: xr.Dataset, **parameters: Any) -> xr.Dataset:
        """The reduction of a Dataset as a lazy Dataset (see :func:`dfxm_dask.engine.graph.lazy`)."""
        from dfxm_dask.engine.graph import lazy  # dask and xarray load when a graph is wanted

        return lazy(self, dataset, parameters)

    def gather(self, dataset: xr.Dataset, **parameters: Any) -> xr.Dataset:
        """The result of a gather, computed at once (see :func:`dfxm_dask.engine.graph.gather`)."""
        from dfxm_dask.engine.graph import gather

        return gather(self, dataset, parameters)


REGISTRY: dict[str, Reduction] = {}


def reduction(
    *,
    reads: tuple[Variable, ...],
    writes: tuple[Variable, ...],
    may_read: tuple[Variable, ...] = (),
    over: tuple[str, ...] = (),
    halo: int = 0,
    patch: int | None = None,
    combine: Callable[[Arrays, Arrays], Arrays] | None = None,
    finish: Callable[[Arrays], Arrays] | None = None,
    min_axes: int = 1,
    min_positions: int = 1,
    group: str | None = None,
    files: Callable[[Mapping[str, Any]], Mapping[str, str]] | None = None,
    positions: Positions = "own",
    settle: Settle | None = None,
    settled_by: tuple[Variable, ...] = (),
) -> Callable[[Callable[..., Arrays]], Reduction]:
    """Declare a numpy function as a reduction and register it under its name.

    Parameters
    ----------
    reads, may_read, writes : tuple of Variable
        Inputs that are needed, inputs that are used where present, and outputs.
    over, halo, patch, combine, finish
        The shape of the reduction: see the module's text.
    min_axes, min_positions : int
        Scan axes that the scan must have, and positions that one of them must have.
    group : str, optional
        Group of the store that the result goes to; by default the room (sub-package) of the function.
    files : callable, optional
        Given the parameters, the digests of files that they name, such as weights: results depend on what is in them,
        and a plan refuses a file that is absent or damaged before anything runs.
    positions : "own", "common" or "unused"
        Where frames do not lie on the grid (``position_{axis}``): the kernel gets the positions of its own layer, or
        those of the grid, because it takes frames of the same number in all layers together; or it uses their number
        only. A kernel that may read ``position_{axis}`` gets the position of every frame as well.
    settle, settled_by : callable and tuple of Variable, optional
        Given the parameters, those of these small variables that a whole scan has, and the lengths of the scan axes:
        the parameters as numbers, or None where the step has nothing to do, and a sentence for the user. A kernel
        sees a part of one layer, which does not tell them.

    Raises
    ------
    InputError
        The name is taken, a keyword-only parameter has no type annotation or default, or nothing tells the length of a
        dim of an output.
    """

    def declare(kernel: Callable[..., Arrays]) -> Reduction:
        name = kernel.__name__
        if name in REGISTRY and REGISTRY[name].kernel.__module__ != kernel.__module__:
            raise InputError(f"reduction {name!r}", f"exists in {REGISTRY[name].kernel.__module__}", "rename one")
        hints = get_type_hints(kernel, include_extras=True)
        fields: dict[str, Any] = {}
        for key, parameter in inspect.signature(kernel).parameters.items():
            if parameter.kind is parameter.KEYWORD_ONLY and key != "middle":
                if key not in hints or parameter.default is parameter.empty:
                    raise InputError(
                        f"reduction {name!r}: parameter {key!r}", "has no annotation or no default", "give both"
                    )
                fields[key] = (hints[key], parameter.default)
        told = {*SPACE, SCAN, *(d for v in (*reads, *may_read) for d in v.dims)}
        for variable in writes:
            for d in variable.dims:
                if d not in told and (fault := _untold(d, fields, combine is not None)):
                    raise InputError(
                        f"reduction {name!r}: variable {variable.name!r}",
                        f"has a dim {d!r} {fault}",
                        f"declare it with dfxm_dask.schema.Dim, such as Dim({d!r}, 3), Dim({d!r}, 'parameter') or "
                        f"Dim({d!r}, of='y', step=64)",
                    )
        model = create_model(name, __config__=ConfigDict(extra="forbid", strict=False, allow_inf_nan=False), **fields)
        room = group or (kernel.__module__.split(".")[-2] if "." in kernel.__module__ else "extra")
        REGISTRY[name] = Reduction(
            name,
            kernel,
            reads,
            may_read,
            writes,
            over,
            halo,
            patch,
            combine,
            finish,
            min_axes,
            room,
            model,
            min_positions,
            files,
            positions,
            settle,
            settled_by,
        )
        return REGISTRY[name]

    return declare


def _untold(dim: str, parameters: Mapping[str, Any], gather: bool) -> str:
    """Why nothing tells the length of a dim, or nothing; a gather may leave it to the data."""
    length, of, step = (dim.length, dim.of, dim.step) if isinstance(dim, Dim) else (None, "", 1)
    if of:
        return "" if of in ("y", "x") and step > 0 else f"of tiles of {step} along {of!r}; tiles cut y or x"
    if isinstance(length, str):
        return "" if length in parameters else f"whose length is no parameter: {length!r}"
    if length is None:
        return "" if gather else "whose length nothing tells"
    return "" if isinstance(length, int) and length > 0 else f"whose length is {length!r}"
