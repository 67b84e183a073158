"""The user's machine: places that cannot be written, words that cannot be shown, files and settings beside the run."""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import dfxm_dask
from dfxm_dask import surroundings
from dfxm_dask.cli.options import Commands
from dfxm_dask.errors import StoreError
from dfxm_dask.run.clusters.cluster import open_cluster
from dfxm_dask.store.output_paths import refuse_file, refuse_folder
from tests.stores import raw_store

DROPPED = "-dac_override,-dac_read_search"
UNPRIVILEGED = [] if os.getuid() else ["setpriv", f"--bounding-set={DROPPED}", f"--inh-caps={DROPPED}"]
ROOT = str(Path(dfxm_dask.__file__).parents[1])


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A store in a folder that cannot be written."""
    folder = tmp_path_factory.mktemp("colleague's")
    raw_store(folder)
    places = [p for p in (folder, *folder.rglob("*")) if p.is_dir()]
    for place in places:
        place.chmod(0o555)
    yield folder / "s.zarr"
    for place in places:
        place.chmod(0o755)


def command(*words: object, cwd: Path, **environment: str) -> subprocess.CompletedProcess[bytes]:
    code = "from dfxm_dask.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-P", "-c", code, *map(str, words)],
        env={**os.environ, "PYTHONPATH": ROOT, **environment},
        cwd=cwd,
        capture_output=True,
        timeout=120,
    )


ALL = """
import json, sys
from click.testing import CliRunner
from dfxm_dask.cli import cli
for words in json.loads(sys.argv[1]):
    done = CliRunner().invoke(cli, words)
    print(json.dumps([done.exit_code, done.stderr, repr(done.exception)]))
"""


@pytest.mark.skipif(not (os.getuid() or shutil.which("setpriv")), reason="needs setpriv")
def test_store_of_others__is_read_or_refused_in_one_line(closed: Path, tmp_path: Path) -> None:
    store = str(closed)
    cases = (
        (["report", store], "--out FILE.html"),
        (["figures", store, f"{store}/pictures"], "OUT_DIR"),
        (["reduce", "moments", store, "--background", "none"], "copy it to a folder of your own"),
        (["info", store, "--help"], ""),
        (["check", "maps", store], ""),
        (["verify", store], ""),
    )
    done = subprocess.run(
        [*UNPRIVILEGED, sys.executable, "-P", "-c", ALL, json.dumps([words for words, _ in cases])],
        env={**os.environ, "PYTHONPATH": ROOT},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) == len(cases), done.stderr
    for (words, option), (code, said, fault) in zip(cases, answers, strict=True):
        assert code == (1 if option else 0), (words, said, fault)
        assert "SystemExit" in fault or not option, words
        assert option in said, words
        refused = re.search("cannot be written|lies in the store", said)
        assert not option or (len(said.splitlines()) == 1 and refused), words


def test_refuse_file__keeps_what_is_not_ours(tmp_path: Path) -> None:
    for name, content in (("a.html", b"<html>my notes"), ("b.png", b"\x89PNG my picture"), ("c.json", b'{"mine": 1}')):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(StoreError, match=r"already exists, and dfxm_dask did not write it; .*--out"):
            refuse_file(tmp_path / name, "--out")
    (tmp_path / "d.json").write_text('{\n "schema": 1,\n "kind": "scan"}')
    (tmp_path / "e.html").write_text('<meta name="generator" content="dfxm_dask 0.1.0">')
    (tmp_path / "f.png").touch()
    for name in ("d.json", "e.html", "f.png", "new/folder/g.png"):
        refuse_file(tmp_path / name, "--out")
    with pytest.raises(StoreError, match="is not a regular file"):
        refuse_file(tmp_path, "--out")
    for place in (tmp_path / "a.html", tmp_path / "a.html/deeper"):
        with pytest.raises(StoreError, match=r"a\.html is not a folder; choose another folder with OUT"):
            refuse_folder(place, "OUT")
    (tmp_path / "zarr.json").write_text('{"attributes": {"schema_version": 1}}')
    with pytest.raises(StoreError, match=r"lies in the store .*; choose another folder with OUT"):
        refuse_folder(tmp_path / "deeper", "OUT")


def test_keep_kernels_somewhere__looks_further(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr(surroundings, "__file__", "/proc/none/surroundings.py")
    for number, home in enumerate(("/proc/none", "/dev/null", "~nobody")):
        monkeypatch.setenv("XDG_CACHE_HOME", home)
        monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
        surroundings.keep_kernels_somewhere()
        assert os.environ["NUMBA_CACHE_DIR"].startswith(str(tmp_path))
        assert len(caplog.messages) == number + 1
        surroundings.keep_kernels_somewhere()  # said once
        assert len(caplog.messages) == number + 1
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/proc/mine")
    surroundings.keep_kernels_somewhere()
    assert "/proc/mine (NUMBA_CACHE_DIR) cannot be written" in caplog.messages[-1]
    monkeypatch.setenv("NUMBA_CACHE_DIR", "")
    monkeypatch.setattr(surroundings, "_takes_files", lambda folder: False)
    without: list[bool] = []
    monkeypatch.setattr(surroundings, "_do_without", lambda: without.append(True))
    surroundings.keep_kernels_somewhere()
    assert without
    assert "compiles its kernels again" in caplog.messages[-1]


def test_keep_kernels_somewhere__a_full_disk_takes_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert surroundings._takes_files(tmp_path / "a" / "b")
    monkeypatch.setattr(surroundings.os, "write", lambda descriptor, data: 4096)  # what fits
    assert not surroundings._takes_files(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("coding", ["ascii", "latin-1", "cp437", "shift_jis"])
def test_words__are_shown_by_any_terminal(coding: str, tmp_path: Path) -> None:
    script = (
        "from dfxm_dask.surroundings import command_line; import sys; command_line()\n"
        "print('\\u00b5 \\u2013 \\u6f22 \\ud83d'); print('\\u0394', file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONIOENCODING": coding, "PYTHONPATH": ROOT},
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count(b"?") >= 1


def test_command__beside_files_and_settings_of_the_user(tmp_path: Path) -> None:
    for name in ("yaml", "numpy", "click", "dask", "signal", "logging"):
        (tmp_path / f"{name}.py").write_text("raise SystemExit('the file beside was imported')")
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nbackend: nonsense\n")
    done = command(
        "explain",
        "moments",
        cwd=tmp_path,
        PYTHONWARNINGS="error",
        MPLBACKEND="nonsense",
        NO_COLOR="1",
        TERM="dumb",
        COLUMNS="20",
        DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT="1ms",
        OMP_NUM_THREADS="3",
        TMPDIR=str(tmp_path),
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (PermissionError(13, "Permission denied", "/a/b.json"), "/a/b.json: Permission denied; check that the path"),
        (OSError(28, "No space left on device"), "one: No space left on device; .* the disk has free space"),
        (OSError(18, "Invalid link", "/a", None, "/b"), "/a to /b: Invalid link"),
        (FileNotFoundError(2, "No usable temporary directory found in ['/tmp']"), "set TMPDIR to a folder"),
        (
            ValueError("A dask config file at '/c.yaml' is malformed:\n\n x"),
            "correct or move that file",
        ),
    ],
)
def test_command__says_in_one_line_what_the_machine_refuses(fault: Exception, words: str) -> None:
    @click.group(cls=Commands)
    def group() -> None: ...

    @group.command()
    def one() -> None:
        raise fault

    result = CliRunner().invoke(group, ["one"])
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1
    assert re.search(words, result.stderr)


@pytest.mark.slow
def test_command__of_which_nobody_reads_the_end(tmp_path: Path) -> None:
    words = f"{sys.executable} -P -c 'from dfxm_dask.cli import main; main()' explain moments"
    env = {**os.environ, "PYTHONPATH": ROOT}
    done = subprocess.run(f"{words} | head -n 1", shell=True, env=env, cwd=tmp_path, capture_output=True)
    assert done.stdout
    assert done.stderr == b""
    done = subprocess.run(f"{words} >&-", shell=True, env=env, cwd=tmp_path, capture_output=True)
    assert b"Traceback" not in done.stderr


def test_open_cluster__ends_without_a_word_of_its_nannies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """On settings of the user that would end it, too; workers import nothing from the folder they are started in."""
    import dask.config
    import distributed  # noqa: F401  (first: a context that ends would remove the defaults that came within it)

    nanny = logging.getLogger("distributed.nanny")
    (tmp_path / "numpy.py").write_text("raise SystemExit('the file beside was imported')")
    (tmp_path / "random.py").write_text("raise SystemExit('the file beside was imported')")
    monkeypatch.chdir(tmp_path)
    said = "Worker process still alive after 4.0 seconds, killing"
    odd = {
        "distributed.worker.memory.terminate": 0.0001,
        "distributed.nanny.preload": ["no_such_module"],
        "distributed.comm.compression": "nonsense",
        "distributed.scheduler.allowed-failures": 99,
    }
    with dask.config.set(odd), open_cluster(workers=1) as client:
        assert client.submit(lambda: __import__("numpy").arange(3).sum()).result(timeout=60) == 3
        closing = client.cluster._close

        async def late(*args: object, **words: object) -> None:
            nanny.warning(said)
            nanny.error("a fault of another kind")
            await closing(*args, **words)

        monkeypatch.setattr(client.cluster, "_close", late)
        nanny.warning("still alive after is said while it runs")
    assert said not in caplog.text
    assert "is said while it runs" in caplog.text
    assert "a fault of another kind" in caplog.text
    assert not nanny.filters
