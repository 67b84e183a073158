"""A reduction: a numpy kernel with a declaration of its inputs, its outputs, and the dims that it needs whole.

.. code-block:: python

    COM = Variable("com_{axis}", ("z", "y", "x"), "float32", "{units}", "centre of mass along {axis}")

    @reduction(reads=(COUNTS, AXES), writes=(COM,), over=("scan",))
    def moments(counts, scan, *, background: Annotated[float, Field(ge=0)] = 0.0):
        ...
        return {"com_phi": ...}

Arguments of a kernel
---------------------
A kernel receives one layer: the dim z is dropped unless ``over`` or ``halo`` names it. Scan axes come last, as a view.
``reads`` are positional arguments, in order; ``may_read`` are keywords (``None`` if the Dataset lacks the variable).
A template (``com_{axis}``) or :data:`~dfxm_dask.schema.AXES` is a dict keyed by axis name in storage order;
a template in ``may_read`` has the keyword ``com`` and contains the axes of the Dataset, or is ``None``;
``com_{axis}_error`` has the keyword ``com_error``; a template of two axes is keyed by pairs of axes.
A parameter with the name of a variable in ``may_read`` takes precedence over that variable unless it is ``None``.
If the detector marks pixels without a count (``masked``), the counts are floats with NaN at these pixels.
The kernel returns a dict from variable name to array: the declared dims without z, with scan axes last.

Keywords that declare the shape
-------------------------------
``over``     dims that a block contains in full ("scan" means all scan axes). Blocks may be cut along all other dims.
             A kernel with the argument ``first`` takes frames one by one: a block contains some frames, with the scan
             axes joined to one dim and one position of every axis for each frame; ``first`` is the number of its first
             frame. Detector voxels at the largest value of the dtype are NaN if the detector marks pixels.
``halo``     number of neighbouring layers in z that the kernel receives on each side. At the ends of the stack the
             kernel receives fewer layers; the argument ``middle`` is the index of its own layer.
``border``   number of neighbouring rows along y that the kernel receives on each side of its own rows. At the ends of
             the layer the kernel receives fewer rows; the argument ``inner`` is the slice of its own rows, and the
             kernel returns these rows only.
``patch``    edge in pixels of square tiles of (y, x) that must not be cut.
``combine``  for a gather: merges two summaries (the dicts that the kernel returns); must be associative. ``finish``
             then turns the last summary into the result. Workers exchange summaries and never images.

Lengths of dims
---------------
Dims of an output are z, y, x, scan axes, dims of an input, or declared with a length: ``Dim("rgb", 3)``;
``Dim("pca_component", "components")`` takes the length from a parameter; ``Dim("patch_y", of="y", step=64)`` has one
element for each tile. Only a gather may write dims whose length follows from the data (``"object"``); that gather has
no lazy Dataset.

Docstring of a kernel
---------------------
A kernel's docstring has a first line and sections of numpydoc. Arrays are those of the declaration, for one layer, so
the sections Parameters and Returns only add to the declaration and to the descriptions of the parameters.
:mod:`dfxm_dask.engine.docstring` combines both for the caller. If no formula is from literature, Notes end with
"Our own definition."
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

from pydantic import ConfigDict, create_model

from dfxm_dask.engine.declaration import Arrays, Declaration, Fits, Positions, Settle
from dfxm_dask.engine.docstring import for_callers
from dfxm_dask.errors import InputError
from dfxm_dask.schema import SCAN, SPACE, Dim, Variable

if TYPE_CHECKING:
    import xarray as xr


@dataclass(frozen=True, eq=False, repr=False)
class Reduction(Declaration):
    """A function from a Dataset to a lazy Dataset, built from a kernel. ``.kernel`` is the numpy function.

    A reduction has the name, signature and docstring of a function, for ``help``, ``inspect`` and completion.
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
        """Itself: ``help`` and ``doctest`` treat an object with this method as a function."""
        return self

    def __reduce_ex__(self, protocol: Any) -> Any:
        """A reduction of this package is pickled by name; others by value, which cloudpickle can."""
        return self.name if self.kernel.__module__.startswith("dfxm_dask.") else super().__reduce_ex__(protocol)

    def __call__(self, dataset: xr.Dataset, **parameters: Any) -> xr.Dataset:
        """The reduction of a Dataset as a lazy Dataset (see :func:`dfxm_dask.engine.graph.lazy`)."""
        from dfxm_dask.engine.graph import lazy  # loads dask and xarray

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
    border: int = 0,
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
    fits: Fits | None = None,
) -> Callable[[Callable[..., Arrays]], Reduction]:
    """Declare a numpy function as a reduction and register it under its name.

    Parameters
    ----------
    reads, may_read, writes : tuple of Variable
        Required inputs, optional inputs, and outputs.
    over, halo, border, patch, combine, finish
        Shape of the reduction: see the docstring of this module.
    min_axes, min_positions : int
        Minimum number of scan axes, and minimum number of positions along the longest scan axis.
    group : str, optional
        Group of the store for the result; by default the room (sub-package) of the function.
    files : callable, optional
        Function from the parameters to the digests of the files that they name, such as weights. Results depend on the
        content of these files; a plan refuses an absent or damaged file before a run begins.
    positions : "own", "common" or "unused"
        Positions that the kernel receives if frames are off the grid (``position_{axis}``): those of its own layer
        ("own"), or those of the grid ("common"), for kernels that combine frames of the same number from all layers.
        "unused" is for kernels that only use the number of positions. A kernel that may read ``position_{axis}`` also
        receives the position of every frame.
    settle, settled_by : callable and tuple of Variable, optional
        Function from the parameters, the small variables of the whole scan that ``settled_by`` names, and the lengths
        of the scan axes to the parameters as numbers (None if the step has nothing to do) and a sentence for the user.
        It is for parameters that depend on the whole scan, whereas a kernel receives a part of one layer.
    fits : callable, optional
        Function from the parameters and the positions along y and x (um) that raises an InputError if the parameters do
        not fit the pixels. A plan calls it before a run begins, and leaves out the step if it is optional.

    Raises
    ------
    InputError
        The name already exists, a keyword-only parameter has no type annotation or default, a dim of an output has no
        declared length, a kernel that takes frames one by one needs all of them or neighbouring layers, or a kernel
        with a border needs whole layers or tiles.
    """

    def declare(kernel: Callable[..., Arrays]) -> Reduction:
        name = kernel.__name__
        if name in REGISTRY and REGISTRY[name].kernel.__module__ != kernel.__module__:
            raise InputError(f"reduction {name!r}", f"exists in {REGISTRY[name].kernel.__module__}", "rename one")
        hints = get_type_hints(kernel, include_extras=True)
        fields: dict[str, Any] = {}
        for key, parameter in inspect.signature(kernel).parameters.items():
            if parameter.kind is parameter.KEYWORD_ONLY and key not in ("middle", "inner", "first"):
                if key not in hints or parameter.default is parameter.empty:
                    raise InputError(
                        f"reduction {name!r}: parameter {key!r}", "has no annotation or no default", "give both"
                    )
                fields[key] = (hints[key], parameter.default)
        frames = "first" in inspect.signature(kernel).parameters
        if frames and (SCAN in over or halo or "z" in over):
            raise InputError(
                f"reduction {name!r}", "takes frames one by one, and whole layers", "leave out one of both"
            )
        if border and (frames or patch or "y" in over):
            raise InputError(
                f"reduction {name!r}",
                "has a border along y, and whole layers, tiles or frames",
                "leave out one of both",
            )
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
            fits,
            border,
        )
        return REGISTRY[name]

    return declare


def _untold(dim: str, parameters: Mapping[str, Any], gather: bool) -> str:
    """Why the length of a dim is unknown, or an empty text; in a gather it may follow from the data."""
    length, of, step = (dim.length, dim.of, dim.step) if isinstance(dim, Dim) else (None, "", 1)
    if of:
        return "" if of in ("y", "x") and step > 0 else f"of tiles of {step} along {of!r}; tiles cut y or x"
    if isinstance(length, str):
        return "" if length in parameters else f"whose length is not a parameter: {length!r}"
    if length is None:
        return "" if gather else "without a length"
    return "" if isinstance(length, int) and length > 0 else f"whose length is {length!r}"
