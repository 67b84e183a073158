"""Configuration of a night, from a YAML file; and entries for schedulers that start it every night."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator

from dfxm_dask.errors import DfxmError, InputError, RecipeError
from dfxm_dask.plain_yaml import configured, read_words
from dfxm_dask.run.clusters.cluster import read_cluster
from dfxm_dask.run.recipe import read_recipe
from dfxm_dask.schema import nearest
from dfxm_dask.sources.source import load_beamline

SCHEDULERS = ("cron", "systemd", "scrontab")
_PLACES = ("session", "relative")


class Nightly(BaseModel):
    """Scans, recipes and output folders of a night; see ``configs/nightly.yaml``."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    path: Annotated[Path, Field(exclude=True)] = Path()
    """Path of the configuration file; not one of its keys."""

    raw: Annotated[list[str], Field(min_length=1)]
    report: str
    processed: str = "{session}/PROCESSED_DATA/{relative}"
    recipes: list[str] = ["maps"]
    commands: list[str] = ["fscan", "fscan2d"]
    skip: list[str] = [".*", "scan[0-9][0-9][0-9][0-9]"]
    stack: bool = False
    follow: bool = False
    beamline: str = "id03"
    motors: dict[str, str] = {}
    detector: str | None = None
    pixel_size: tuple[float, float] | None = None
    roi: tuple[int, int, int, int] | None = None
    roots: list[str] = []
    allow_partial: bool = False
    scan_mode: Literal["rewind", "zigzag"] | None = None
    cluster: str | None = None
    workers: Annotated[int, Field(ge=0)] | None = None
    quiet_seconds: Annotated[float, Field(ge=0)] = 600.0
    unfinished_hours: Annotated[float, Field(ge=0)] = 24.0
    retries: Annotated[int, Field(ge=0)] = 2
    hours: Annotated[float, Field(gt=0)] | None = None

    @field_validator("raw", mode="before")
    @classmethod
    def _one_is_a_list(cls, value: Any) -> Any:
        return [value] if isinstance(value, str) else value

    @field_validator("raw")
    @classmethod
    def _no_stars_across_folders(cls, value: list[str]) -> list[str]:
        if any("**" in pattern for pattern in value):
            raise ValueError("** is not allowed: name the folder, which is searched completely")
        return value

    @field_validator("follow")
    @classmethod
    def _layers_grow(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("stack") is False:
            raise ValueError("needs stack: true, since the entries of a growing master become layers of one store")
        return value

    @field_validator("processed")
    @classmethod
    def _every_scan_has_its_own_place(cls, value: str) -> str:
        try:
            value.format(**dict.fromkeys(_PLACES, ""))
        except (KeyError, IndexError, ValueError, AttributeError):
            raise ValueError("may contain {session} and {relative}, and no other braces") from None
        if "{relative}" not in value:
            raise ValueError("must contain {relative}, so that two scans never share a store")
        return value


def read_nightly(path: str | Path) -> Nightly:
    """The night of a YAML file. Relative paths start at the folder of this file.

    Raises
    ------
    RecipeError
        The file is not YAML, or has an unknown key or an invalid value, with file and line; or a recipe, beamline or
        cluster cannot be read.
    """
    path = Path(path).absolute()
    words, lines = read_words(path, "a night")
    night = configured(Nightly, words, lines, path, "configs/nightly.yaml")
    folder = path.parent
    night = night.model_copy(
        update={
            "path": path,
            "raw": [_seen_from(folder, pattern) for pattern in night.raw],
            "roots": [_seen_from(folder, root) for root in night.roots],
            "report": _seen_from(folder, night.report),
            "processed": night.processed
            if night.processed.startswith("{session}")
            else str(folder).replace("{", "{{").replace("}", "}}") + "/" + night.processed
            if not night.processed.startswith(("/", "~"))
            else os.path.expanduser(night.processed),
            "recipes": [_own_file(name, folder) for name in night.recipes],
            "beamline": _own_file(night.beamline, folder),
            "cluster": night.cluster and _own_file(night.cluster, folder),
        }
    )
    for number, name in enumerate(night.recipes):
        with _on_line(lines, f"recipes.{number}"):
            read_recipe(name)
    with _on_line(lines, "beamline"):
        load_beamline(night.beamline, dict(night.motors))
    if night.cluster and "://" not in night.cluster:
        with _on_line(lines, "cluster"):
            read_cluster(night.cluster)
    return night


@contextmanager
def _on_line(lines: Mapping[str, str], word: str) -> Iterator[None]:
    """An error of a file that a night names, with the line of the name."""
    try:
        yield
    except DfxmError as error:
        where = f"{lines[word]}: " if word in lines else ""
        raise RecipeError(f"{where}{error.asked}", error.found, error.remedy) from error


def _own_file(name: str, folder: Path) -> str:
    """A path relative to a folder; a bare name is unchanged, since it names a file of the package."""
    is_path = "://" not in name and ("/" in name or name.endswith((".yaml", ".yml")))
    return _seen_from(folder, name) if is_path else name


def _seen_from(folder: Path, name: str) -> str:
    return str(folder / os.path.expanduser(name))


def schedule(config: str | Path, scheduler: str, *, executable: str | None = None, at: str = "02:00") -> str:
    """Entry for a scheduler that starts the night of a configuration every day.

    Parameters
    ----------
    config : path
        Configuration of the night.
    scheduler : str
        "cron", "systemd" or "scrontab".
    executable : str, optional
        Absolute path of ``dfxm-dask``; by default that of this environment.
    at : str
        "HH:MM", local time.

    Raises
    ------
    InputError
        An unknown scheduler, an invalid time, or a path with a control character.
    """
    if scheduler not in SCHEDULERS:
        raise InputError(
            f"scheduler {scheduler!r}",
            f"is unknown{nearest(scheduler, SCHEDULERS)}",
            "use one of " + ", ".join(SCHEDULERS),
        )
    hour, _, minute = at.partition(":")
    if not (hour.isdecimal() and minute.isdecimal() and int(hour) < 24 and int(minute) < 60):
        raise InputError(f"time {at!r}", "is not a time of day", "write HH:MM, such as 02:00")
    words = [executable or own_executable(), "nightly", str(Path(config).absolute())]
    if any(not word.isprintable() for word in words):
        raise InputError(f"path {words[-1]!r}", "contains a line break or another control character", "rename it")
    command = shlex.join(words)
    if scheduler == "cron":
        # In a crontab % ends the command, also between quotes.
        return (
            "# Add with `crontab -e`. Output is sent by mail; exit code 3 means that scans were not done.\n"
            f"{int(minute)} {int(hour)} * * * {command.replace('%', chr(92) + '%')}\n"
        )
    if scheduler == "scrontab":
        return (
            "# Add with `scrontab -e` where SLURM offers it. The signal ends the night in time for its page.\n"
            "#SCRON --job-name=dfxm-nightly --time=08:00:00 --mem=8G --signal=B:TERM@300\n"
            "#SCRON --output=dfxm-nightly-%j.out --open-mode=append\n"
            f"{int(minute)} {int(hour)} * * * exec {command}\n"
        )
    return (
        "# ~/.config/systemd/user/dfxm-nightly.service\n"
        "[Unit]\nDescription=Reduction of new DFXM scans\n\n"
        f"[Service]\nType=oneshot\nNice=10\nTimeoutStopSec=300\nExecStart=:{' '.join(map(_for_systemd, words))}\n\n"
        "# ~/.config/systemd/user/dfxm-nightly.timer\n"
        f"[Unit]\nDescription=Reduction of new DFXM scans, every night\n\n"
        f"[Timer]\nOnCalendar=*-*-* {int(hour):02d}:{int(minute):02d}:00\nPersistent=true\n\n"
        "[Install]\nWantedBy=timers.target\n\n"
        "# Then: systemctl --user daemon-reload && systemctl --user enable --now dfxm-nightly.timer\n"
        "# and, so that it runs while you are logged out: loginctl enable-linger\n"
    )


def _for_systemd(word: str) -> str:
    """Quoting of an argument for ``ExecStart=``; the colon before the program prevents the expansion of $."""
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%") + '"'


def own_executable() -> str:
    """Absolute path of ``dfxm-dask`` in this environment."""
    beside = Path(sys.executable).with_name("dfxm-dask")
    return str(beside) if beside.exists() else (shutil.which("dfxm-dask") or str(beside))
