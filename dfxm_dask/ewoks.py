"""Tasks for workflows of ewoks: :class:`Ingest`, :class:`RunRecipe` and :class:`Export`.

They require the extra ``ewoks``. A node names a task by its path, such as ``dfxm_dask.ewoks.Ingest``. The output
``store`` of a task is the input ``store`` of the next. An incomplete result ends a workflow with an error, unless
``allow_partial`` is true.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from ewokscore import Task
from ewokscore.model import BaseInputModel, BaseOutputModel
from pydantic import ConfigDict, Field

import dfxm_dask
from dfxm_dask.errors import IncompleteError


class Inputs(BaseInputModel):
    """Inputs of a task; unknown names are refused."""

    model_config = ConfigDict(extra="forbid")


class IngestInputs(Inputs):
    """Inputs of :class:`Ingest`: see :func:`dfxm_dask.ingest`."""

    source: Annotated[str | list[str], Field(description="beamline file, pattern, or list of both")]
    store: Annotated[str, Field(description="path of the new store")]
    scan: Annotated[str | None, Field(description="entries: 1.1, or 1.1,2.1, or all")] = None
    beamline: Annotated[str, Field(description="name or file of the beamline configuration")] = "id03"
    detector: Annotated[str | None, Field(description="camera, if a scan contains several")] = None
    roi: Annotated[tuple[int, int, int, int] | None, Field(description="region (y0, y1, x0, x1), in pixels")] = None
    pixel_size: Annotated[tuple[float, float] | None, Field(description="effective pixel (y, x), in um")] = None
    z: Annotated[list[float] | None, Field(description="positions of the layers, in um")] = None
    motors: Annotated[dict[str, str], Field(description="axis of each motor")] = {}
    allow_partial: Annotated[bool, Field(description="keep the complete part of an aborted scan")] = False
    overwrite: Annotated[bool, Field(description="replace an existing store")] = False


class RunRecipeInputs(Inputs):
    """Inputs of :class:`RunRecipe`: see :func:`dfxm_dask.run_recipe`."""

    store: Annotated[str, Field(description="path of the store")]
    recipe: Annotated[str, Field(description="name or file of the recipe")] = "maps"
    overwrite: Annotated[bool, Field(description="recompute steps that are already complete")] = False
    allow_partial: Annotated[bool, Field(description="continue the workflow with an incomplete result")] = False


class ExportInputs(Inputs):
    """Inputs of :class:`Export`: see :func:`dfxm_dask.export`."""

    store: Annotated[str, Field(description="path of the store")]
    folder: Annotated[str, Field(description="folder of the files")]
    what: Annotated[list[str], Field(description="results to export; all by default")] = []
    formats: Annotated[list[Literal["nexus", "tiff", "csv", "netcdf", "zarr"]], Field(description="of the maps")] = []
    parquet: Annotated[bool, Field(description="write tables as Parquet in addition to CSV")] = False
    overwrite: Annotated[bool, Field(description="replace existing files")] = False


class StoreOutputs(BaseOutputModel):
    """Path of the store, and remarks about the scan or the results."""

    store: str
    remarks: list[str]


class FilesOutputs(BaseOutputModel):
    """Paths of the written files."""

    files: list[str]


class Ingest(Task, input_model=IngestInputs, output_model=StoreOutputs):  # type: ignore[call-arg]
    """Read beamline files into a store."""

    def run(self) -> None:
        given = _given(self, IngestInputs)
        report = dfxm_dask.ingest(**given)
        self.outputs.store, self.outputs.remarks = given["store"], list(report.remarks)


class RunRecipe(Task, input_model=RunRecipeInputs, output_model=StoreOutputs):  # type: ignore[call-arg]
    """Run a recipe on a store."""

    def run(self) -> None:
        given = _given(self, RunRecipeInputs)
        report = dfxm_dask.run_recipe(given["recipe"], given["store"], overwrite=given["overwrite"])
        if not (report.complete or given["allow_partial"]):
            raise IncompleteError(
                f"recipe {given['recipe']} on {given['store']}",
                f"the result is incomplete: {report!r}",
                f"`dfxm-dask info {given['store']}` lists the missing parts; run it again, or set allow_partial",
            )
        self.outputs.store, self.outputs.remarks = given["store"], list(report.remarks)


class Export(Task, input_model=ExportInputs, output_model=FilesOutputs):  # type: ignore[call-arg]
    """Write files of a store for other programs."""

    def run(self) -> None:
        self.outputs.files = [str(path) for path in dfxm_dask.export(**_given(self, ExportInputs))]


def _given(task: Task, model: type[Inputs]) -> dict[str, Any]:
    """Inputs of a task, checked, with defaults for missing ones."""
    return model.model_validate(task.get_named_input_values()).model_dump()
