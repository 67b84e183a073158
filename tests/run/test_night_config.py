"""What a night is told and where it looks: configuration, roots, links, schedules."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dfxm_dask.errors import InputError, RecipeError, SourceError, StoreError
from dfxm_dask.run.nights.config import Nightly, read_nightly, schedule
from dfxm_dask.run.nights.plan import refuse_raw, target_folder
from dfxm_dask.run.nights.scans import apart, find_masters, look
from tests.run.nights import (
    MESH,
    make_tree,
    write_scan,
)


def test_find_masters__follows_no_link_out_of_the_roots(tmp_path: Path) -> None:
    path = make_tree(tmp_path, good=1, broken=())
    session = tmp_path / "data/visitor/ma0/id03/20261120/RAW_DATA/s"
    outside = write_scan(tmp_path / "secret", "x")
    (session / "linked").symlink_to(outside.parent)
    (session / "linked.h5").symlink_to(outside)
    (session / "inside.h5").symlink_to(session / "s_0000/s_0000.h5")
    config = read_nightly(path)
    found = find_masters(config)
    assert [m.name for m, _ in found.masters] == ["s_0000.h5"]
    assert sum("was not followed" in note for note in found.notes) == 2
    allowed = find_masters(config.model_copy(update={"roots": [str(tmp_path / "secret")]}))
    assert [m.name for m, _ in allowed.masters] == ["s_0000.h5", "s_x.h5"]


def test_refuse_raw__also_below_a_root_without_that_name(tmp_path: Path) -> None:
    (tmp_path / "scans").mkdir()
    (tmp_path / "way").symlink_to(tmp_path / "scans")
    with pytest.raises(StoreError, match="which contains raw data"):
        refuse_raw(tmp_path / "way/out", [tmp_path / "scans"])
    refuse_raw(tmp_path / "out", [tmp_path / "scans"])
    night = Nightly(raw=["x"], report="y")
    with pytest.raises(StoreError, match="is not below a folder RAW_DATA; set `processed:`"):
        target_folder(tmp_path / "scans/m.h5", tmp_path / "scans", night)
    raw = tmp_path / "s/RAW_DATA/{relative}/b/m.h5"  # a name with braces is a name
    assert target_folder(raw, tmp_path, night) == tmp_path / "s/PROCESSED_DATA/{relative}/b"


def test_apart__a_reader_that_dies_is_replaced(tmp_path: Path) -> None:
    with apart() as ask:
        with pytest.raises(SourceError, match="ends the program that reads it"):
            ask(_die, "m.h5")
        assert ask(_length, "m.h5") == 4
        with pytest.raises(SourceError, match=r"none\.h5 cannot be opened"):
            ask(_refuse, "none.h5")


def _die(path: str) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _length(path: str) -> int:
    return len(path)


def _refuse(path: str) -> None:
    raise SourceError(path, f"{path} cannot be opened", "check the path")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        ("raw: x\n", r"'report'.*[Ff]ield required"),
        ("report: y\nraw: []\n", r":2: 'raw': List should have at least 1"),
        ("raw: x\nreport: y\nrecipe: [maps]\n", r":3: 'recipe': is unknown .did you mean 'recipes'"),
        ("raw: x\nreport: y\nretries: -1\n", r":3: 'retries'.*greater than or equal to 0"),
        ("raw: x\nreport: y\nprocessed: out\n", r":3: 'processed': must contain \{relative\}"),
        ("raw: x\nreport: y\nprocessed: '{relative}/{secret}'\n", r"no other braces"),
        ("raw: x\nreport: y\nscan_mode: backwards\n", r":3: 'scan_mode'.*'rewind' or 'zigzag'"),
        ("raw: x/**/y\nreport: y\n", r":1: 'raw': \*\* is not allowed"),
        ("raw: x\nreport: y\nrecipes: [mapz]\n", r":3: recipe 'mapz': not found"),
        ("raw: x\nreport: y\nfollow: true\n", r":3: .*follow.*needs stack: true"),
        ("raw: x\nreport: y\nstack: true\nfollow: perhaps\n", r":4: .*follow"),
        ("raw: x\nreport: y\nbeamline: id99\n", r":3: .*'id99': not found"),
        ("raw: x\nreport: y\ncluster: slurn\n", r"'slurn': not found"),
        ("raw: &a x\nreport: *a\n", r"YAML|anchor"),
        ("raw: !!python/object/apply:os.system [echo]\nreport: y\n", r"nightly\.yaml:1"),
    ],
)
def test_read_nightly__refuses(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "nightly.yaml").write_text(text)
    with pytest.raises(RecipeError, match=words):
        read_nightly(tmp_path / "nightly.yaml")


def test_read_nightly__the_example_is_one(tmp_path: Path) -> None:
    found = read_nightly(Path(__file__).parents[2] / "configs/nightly.yaml")
    assert found.pixel_size == (0.12, 0.04)
    assert found.model_fields_set >= {"raw", "report", "processed", "commands", "skip", "quiet_seconds"}


NAMES = ["plain", "with space", "per%cent", "do$llar", "quo'te", 'quo"te', "back\\slash", "semi;colon&"]


@pytest.mark.parametrize("name", NAMES)
def test_schedule__quotes_paths_for_each_reader(name: str, tmp_path: Path) -> None:
    config, program = tmp_path / name / "n.yaml", "/opt/a b/dfxm-dask"
    wanted = [program, "nightly", str(config)]
    cron = schedule(config, "cron", executable=program, at="03:30").splitlines()[-1]
    assert cron.startswith("30 3 * * * ")
    command = cron.removeprefix("30 3 * * * ")
    assert not re.search(r"(?<!\\)%", command)  # cron would end the command there
    given = subprocess.run(
        ["sh", "-c", "printf '%s\\n' " + command.replace("\\%", "%")], capture_output=True, text=True
    )
    assert given.stdout.splitlines() == wanted
    scrontab = schedule(config, "scrontab", executable=program).splitlines()[-1]
    assert shlex.split(scrontab)[5:] == ["exec", *wanted]
    unit = schedule(config, "systemd", executable=program)
    line = next(row for row in unit.splitlines() if row.startswith("ExecStart=:"))
    read = re.findall(r'"((?:[^"\\]|\\.)*)"', line.removeprefix("ExecStart=:"))
    assert [re.sub(r"\\(.)", r"\1", word).replace("%%", "%") for word in read] == wanted


def test_schedule__refuses() -> None:
    with pytest.raises(InputError, match=r"scheduler 'cronn': is unknown .did you mean 'cron'"):
        schedule("n.yaml", "cronn")
    for at in ("25:00", "2", "aa:bb"):
        with pytest.raises(InputError, match="is not a time of day; write HH:MM"):
            schedule("n.yaml", "cron", at=at)
    with pytest.raises(InputError, match="contains a line break"):
        schedule("a\nb.yaml", "cron")


def test_nightly_sbatch__hands_in_the_next_night_and_becomes_the_program(tmp_path: Path) -> None:
    (tmp_path / "n.yaml").write_text("")
    for name in ("sbatch", "dfxm-dask"):
        (tmp_path / name).write_text(
            f'#!/bin/sh\nprintf "%s " {name} "$@" >> "{tmp_path}/said"\necho >> "{tmp_path}/said"\n'
        )
        (tmp_path / name).chmod(0o755)
    script = Path(__file__).parents[2] / "scripts/nightly.sbatch"
    text = script.read_text()
    assert "--signal=B:TERM@" in text
    assert "--requeue" in text
    run: Callable[..., Any] = lambda **more: subprocess.run(  # noqa: E731
        ["bash", str(script), str(tmp_path / "n.yaml"), "03:00"],
        check=True,
        capture_output=True,
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", **more},
    )
    run()
    first, second = (tmp_path / "said").read_text().splitlines()
    begin = re.match(
        rf"sbatch --begin=(\S+) {re.escape(str(script))} {re.escape(str(tmp_path / 'n.yaml'))} 03:00 ", first
    )
    assert begin
    until = time.mktime(time.strptime(begin[1], "%Y-%m-%dT%H:%M:%S")) - time.time()
    assert 3600 - 5 < until < 25 * 3600 + 5
    assert begin[1].endswith("T03:00:00")
    assert second.split() == ["dfxm-dask", "nightly", str(tmp_path / "n.yaml")]
    (tmp_path / "said").unlink()
    run(SLURM_RESTART_COUNT="1")
    assert (tmp_path / "said").read_text().split()[0] == "dfxm-dask"


def test_look__says_what_the_files_are(tmp_path: Path) -> None:
    master = write_scan(tmp_path, "x")
    night = Nightly(raw=["x"], report="y")
    first = look(str(master), ["1.1"], night)
    assert first.title.startswith("fscan mu 0.29")
    assert first.sample == "phantom"
    assert first.ended
    assert {Path(p).name for p, _, _ in first.files} == {"s_x.h5", *(f"pco_ff_000{k}.h5" for k in range(3))}
    assert look(str(master), ["1.1"], night) == first
    os.utime(master.parent / "scan0001/pco_ff_0002.h5")
    assert look(str(master), ["1.1"], night).fingerprint != first.fingerprint


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, None),
        ({**MESH, "mode": "REWIND"}, None),
        ({**MESH, "mode": "REWIND", "parameters": False}, None),
        ({**MESH, "mode": "ZIGZAG", "parameters": False, "positioner": "absent"}, "zigzag"),
    ],
)
def test_look__the_direction_of_the_night_goes_where_the_file_tells_none(
    tmp_path: Path, options: dict[str, Any], told: str | None
) -> None:
    master = write_scan(tmp_path, "x", **options)
    found = look(str(master), ["1.1"], Nightly(raw=["x"], report="y", scan_mode="zigzag"))
    assert (found.problem, found.scan_mode) == ("", told)
    assert bool(look(str(master), ["1.1"], Nightly(raw=["x"], report="y")).problem) == (told is not None)
