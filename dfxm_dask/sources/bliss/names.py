"""Names of motors, counters and cameras of a beamline, and the search for configuration files."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from dfxm_dask.errors import RecipeError
from dfxm_dask.plain_yaml import configured, read_words
from dfxm_dask.schema import nearest

RESERVED = ("x", "y", "time", "scan", "raw", "truth")
"""Reserved names in a store, not allowed for an axis."""
EXAMPLE = "configs/beamlines/id03.yaml"


class Beamline(BaseModel):
    """Names of the motors, counters and cameras of a beamline."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = "custom"
    motors: dict[str, list[str]]
    units: dict[str, str] = {}
    monitors: list[str] = []
    detectors: list[str] = []
    roots: list[str] = []
    scattering_plane: Literal["y", "x"] | None = None
    """Dim of a frame in the scattering plane, along which the layer is imaged obliquely."""

    @field_validator("motors", mode="before")
    @classmethod
    def _one_motor_is_a_list(cls, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {axis: [names] if isinstance(names, str) else names for axis, names in value.items()}
        return value

    @model_validator(mode="after")
    def _each_motor_once(self) -> Beamline:
        seen: dict[str, str] = {}
        for axis, motors in self.motors.items():
            if not axis.isidentifier() or axis in RESERVED:
                raise ValueError(f"axis {axis!r} must be a plain name other than {', '.join(RESERVED)}")
            for motor in motors:
                if seen.setdefault(motor, axis) != axis:
                    raise ValueError(f"motor {motor!r} is listed under both {seen[motor]!r} and {axis!r}")
        return self

    def axis_of(self, motor: str) -> str | None:
        """The axis of a motor, or None."""
        return next((axis for axis, motors in self.motors.items() if motor in motors), None)

    def unit_of(self, motor: str, axis: str) -> tuple[str, str]:
        """The unit of a motor whose file records none, and its source."""
        known = self.units.get(motor) or self.units.get(axis)
        if known:
            return known, f"beamline configuration {self.name}; the file records none"
        default = "mm" if axis == "z" else "degree"
        return default, f"assumed: neither the file nor the beamline configuration {self.name} gives a unit"


def _config_folders(kind: str) -> list[Path]:
    package = Path(__file__).resolve().parents[2]
    beside = package.parent
    # A folder "configs" in site-packages belongs to another package: look beside the package only in a checkout.
    folders = [package / "configs"] + ([beside / "configs"] if (beside / "pyproject.toml").is_file() else [])
    return [folder / kind for folder in folders if (folder / kind).is_dir()]


def find_config(kind: str, name: str | os.PathLike[str]) -> Path:
    """Path of a configuration file: of the package, by name, or of the user, by path.

    Parameters
    ----------
    kind : str
        "beamlines", "clusters" or "recipes".
    name : str or path
        "id03", or a path ending in .yaml or .yml.

    Raises
    ------
    RecipeError
        The file does not exist; the message lists the known names.
    """
    own = Path(name)
    if own.suffix in (".yaml", ".yml") and own.is_file():
        return own
    known = known_configs(kind)
    if str(name).removesuffix(".yaml") in known:
        return known[str(name).removesuffix(".yaml")]
    raise RecipeError(
        f"{kind} configuration {str(name)!r}",
        f"not found{nearest(str(name), known)}",
        f"choose from {', '.join(sorted(known)) or '(none installed)'}, or give the path of a .yaml file",
    )


def known_configs(kind: str) -> dict[str, Path]:
    """Configuration files that come with the package, by name; ``kind`` as for :func:`find_config`."""
    known: dict[str, Path] = {}
    for folder in _config_folders(kind):
        for path in sorted(folder.glob("*.yaml")):
            known.setdefault(path.stem, path)
    return known


def load_beamline(
    name_or_path: str | os.PathLike[str] = "id03", overrides: Mapping[str, Any] | None = None
) -> Beamline:
    """Load the names of a beamline, with additions of the user first.

    Parameters
    ----------
    name_or_path : str or Path
        "id03" or the path of a YAML file.
    overrides : mapping, optional
        ``{"hexapod_rx": "chi"}`` puts this motor before those of the file, and removes it from other axes. Entries of
        the file itself, such as ``{"motors": {"chi": ["hexapod_rx"]}, "monitors": ["mon"]}``, are also accepted.

    Raises
    ------
    RecipeError
        Unknown beamline, or an invalid file.
    """
    path = find_config("beamlines", name_or_path)
    content, lines = read_words(path, "a beamline")
    # Refuse an invalid file, with its line, before the additions.
    configured(Beamline, content, lines, path, EXAMPLE)
    given = dict(overrides or {})
    # "motor: axis" comes from a command line; other keys are entries of the file.
    single = {
        key: given.pop(key) for key in list(given) if key not in Beamline.model_fields and isinstance(given[key], str)
    }
    own: dict[str, list[str]] = {}
    for motor, axis in single.items():
        own.setdefault(axis, []).append(motor)
    if own and isinstance(content.get("motors"), Mapping):
        content["motors"] = _merge_motors(content["motors"], own)
    for key, value in given.items():
        if key == "motors" and isinstance(value, Mapping) and isinstance(content.get("motors"), Mapping):
            content["motors"] = _merge_motors(content["motors"], value)
        elif isinstance(value, Mapping) and isinstance(content.get(key), Mapping):
            content[key] = {**content[key], **value}
        else:
            content[key] = value
    return configured(Beamline, content, {}, path, EXAMPLE)


def _merge_motors(given: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    first = {axis: [names] if isinstance(names, str) else list(names) for axis, names in own.items()}
    taken = {name for names in first.values() for name in names}
    rest = {
        axis: [m for m in ([names] if isinstance(names, str) else names) if m not in taken]
        for axis, names in given.items()
    }
    return {axis: first.get(axis, []) + rest.get(axis, []) for axis in [*rest, *(a for a in first if a not in rest)]}
