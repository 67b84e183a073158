"""Clusters: what a worker starts with, and set-ups that are refused."""

from __future__ import annotations

import os
import stat
import sys
import types
from pathlib import Path
from typing import Any

import psutil
import pytest

from dfxm_dask.errors import DfxmError, RecipeError
from dfxm_dask.run import cluster as module
from dfxm_dask.run.cluster import (
    Local,
    Slurm,
    dashboard,
    environment_set,
    numba_cache,
    open_cluster,
    read_cluster,
    slurm_cluster,
    slurm_prologue,
    worker_environment,
)

CONFIGS = Path(__file__).parents[2] / "configs" / "clusters"


def listening(process: int) -> list[str]:
    """Addresses on which a process listens."""
    return [found.laddr.ip for found in psutil.Process(process).net_connections("inet") if found.status == "LISTEN"]


def test_open_cluster__starts_workers_with_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "7")  # of the user's shell
    monkeypatch.delenv("MALLOC_TRIM_THRESHOLD_", raising=False)
    plugin = tmp_path / "plugin.py"
    plugin.write_text("import os\nos.environ['DFXM_PLUGIN'] = 'loaded'\n")

    def look() -> tuple[dict[str, str], str, bool, int]:
        import dask

        # What the process was started with, as malloc read it: not what was set later.
        start = Path("/proc/self/environ").read_bytes().decode() if sys.platform == "linux" else ""
        return dict(os.environ), start, dask.config.get("distributed.worker.memory.spill"), os.getpid()

    with open_cluster(workers=1, memory_limit="512MiB", plugins=(plugin,)) as client:
        ((environment, start, spill, process),) = client.run(look).values()
        (worker,) = client.scheduler_info()["workers"].values()
        addresses = [*listening(process), *listening(os.getpid())]
        assert dashboard(client) is None or "127.0.0.1" in str(dashboard(client))
        with open_cluster(client.scheduler.address) as second:  # attached; does not stop what it did not start
            assert second.submit(sum, [1, 2]).result() == 3
        assert client.submit(sum, [1, 2]).result() == 3
    wanted = worker_environment()
    assert {name: environment[name] for name in wanted} == wanted
    if start:
        assert "MALLOC_TRIM_THRESHOLD_=536870912" in start.split("\0")
        assert "MALLOC_MMAP_THRESHOLD_=33554432" in start.split("\0")
        assert "MALLOC_ARENA_MAX=1" in start.split("\0")
        assert "=65536" not in start
    assert environment["DFXM_PLUGIN"] == "loaded"
    assert spill is False
    assert worker["nthreads"] == 1
    assert worker["memory_limit"] == 512 << 20
    assert addresses
    assert set(addresses) <= {"127.0.0.1", "::1"}
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MALLOC_TRIM_THRESHOLD_" not in os.environ


def test_open_cluster__refuses_what_does_not_suit() -> None:
    with pytest.raises(RecipeError, match="number of workers: is 0; ask for at least 1"):
        open_cluster(workers=0).__enter__()
    with pytest.raises(RecipeError, match="memory limit: is 'much'; write a size"):
        open_cluster(workers=1, memory_limit="much").__enter__()


def test_open_cluster__names_a_scheduler_that_does_not_answer() -> None:
    with pytest.raises(DfxmError, match=r"scheduler foo://127\.0\.0\.1:1: does not answer"):
        open_cluster("foo://127.0.0.1:1").__enter__()


def test_environment_set__puts_things_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DFXM_A", "1")
    with environment_set({"DFXM_A": "2", "DFXM_B": "3"}):
        assert (os.environ["DFXM_A"], os.environ["DFXM_B"]) == ("2", "3")
    assert os.environ["DFXM_A"] == "1"
    assert "DFXM_B" not in os.environ


def test_numba_cache__is_not_shared(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    path = numba_cache()
    assert numba_cache() == path
    assert stat.S_IMODE(path.stat().st_mode) == 0o700
    path.chmod(0o777)
    other = numba_cache()  # anybody could have put pickles into the first
    assert other != path
    assert stat.S_IMODE(other.stat().st_mode) == 0o700


def test_slurm_prologue__tells_the_nanny_too() -> None:
    lines = slurm_prologue()
    assert "export MALLOC_TRIM_THRESHOLD_=536870912" in lines
    assert "export DASK_DISTRIBUTED__NANNY__PRE_SPAWN_ENVIRON__MALLOC_TRIM_THRESHOLD_=536870912" in lines
    assert "export DASK_DISTRIBUTED__WORKER__MEMORY__SPILL=False" in lines
    assert 'export NUMBA_CACHE_DIR="$(mktemp -d)"' in lines


def test_slurm_cluster__without_the_package_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    setup = Slurm(kind="slurm", jobs=1, workers_per_job=1, memory="1GiB", walltime="00:10:00")
    with pytest.raises(DfxmError, match=r"needs dask-jobqueue; pip install 'dfxm_dask\[slurm\]'"):
        slurm_cluster(setup)


def test_temporary_certificates__without_the_package_say_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None)
    with pytest.raises(DfxmError, match="needs the package cryptography"):
        module.temporary_certificates()


def test_slurm_cluster__hands_the_setup_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}
    package = types.SimpleNamespace(SLURMCluster=lambda **options: asked.update(options) or "cluster")
    monkeypatch.setattr(module, "find_spec", lambda name: True)
    monkeypatch.setattr(module, "import_module", lambda name: package)
    monkeypatch.setattr(module, "temporary_certificates", lambda: "certificates")
    setup = read_cluster(CONFIGS / "slurm.yaml")
    assert isinstance(setup, Slurm)
    assert slurm_cluster(setup) == "cluster"
    assert asked["cores"] == asked["processes"] == 16
    assert asked["security"] == "certificates"
    assert asked["scheduler_options"] == {"dashboard_address": "127.0.0.1:0"}


@pytest.mark.parametrize("name", ["local", "slurm"])
def test_read_cluster__reads_the_packaged_setups(name: str) -> None:
    assert read_cluster(CONFIGS / f"{name}.yaml").kind == name


def test_read_cluster__reads_a_local_setup(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("kind: local\nworkers: 3\n")
    assert read_cluster(str(path)) == Local(kind="local", workers=3)


WRONG = {
    "unknown kind": ("a: 1\nkind: slrum\n", r"mine\.yaml:2: 'kind': is 'slrum' \(did you mean 'slurm'"),
    "no kind": ("workers: 1\n", r"mine\.yaml:1: 'kind': is None; use local or slurm"),
    "kind a list": ("kind: []\n", r"mine\.yaml:1: 'kind': is \[\]"),
    "unknown field": ("kind: local\nworker: 1\n", r"mine\.yaml:2: 'worker': is unknown .*\(did you mean 'workers'"),
    "bad value": ("kind: local\nworkers: 0\n", r"mine\.yaml:2: 'workers': .*greater than or equal to 1 \(found 0\)"),
    "missing field": ("kind: slurm\njobs: 1\n", r"mine\.yaml:1: 'workers_per_job': Field required"),
    "not YAML": ("kind: [\n", r"mine\.yaml:\d: is not YAML"),
}


@pytest.mark.parametrize("case", WRONG)
def test_read_cluster__refuses_with_file_and_line(case: str, tmp_path: Path) -> None:
    text, match = WRONG[case]
    (tmp_path / "mine.yaml").write_text(text)
    with pytest.raises(RecipeError, match=match):
        read_cluster(tmp_path / "mine.yaml")
