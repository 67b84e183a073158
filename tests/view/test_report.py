"""Pages: they say what is so, hold all that they need, and nothing in them can run or reach out."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import dfxm_dask
from dfxm_dask.cli import cli
from dfxm_dask.errors import StoreError
from dfxm_dask.run.nights.night import Night
from dfxm_dask.run.nights.plan import Outcome
from dfxm_dask.run.recipe import parse_recipe
from dfxm_dask.view.report import night_page, night_verdict, scan_page, seen_plainly
from dfxm_dask.view.store_facts import scan_facts, without_facts
from tests.beamline_files import write_bliss
from tests.stores import raw_store

RECIPE = "name: short\nsteps:\n  - background: {method: scalar, value: 60}\n  - moments: {}\n"
BIDI = "".join(map(chr, (0x202E, 0x2066, 0x200B, 0xFEFF, 0x061C)))
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "</style><style>@import url(http://x)</style>",
    "{{ 7*7 }}{% raw %}",
    f"in{BIDI}voice\x00\x07\x1b[31m\ud800",
    "a" * 5000,
]


class Reader(HTMLParser):
    """Tags with their attributes, and the text between."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def read(page: Path) -> Reader:
    """A page, after it is found that nothing in it can run, reach out, or mislead."""
    text = page.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(text)
    assert {tag for tag, _ in reader.tags} <= set(
        "html head meta title style body header main footer section h1 h2 h3 h4 p b br span small div dl dt dd ul li a "
        "table thead tbody tr th td figure figcaption img details summary".split()
    )
    for tag, attributes in reader.tags:
        assert not [name for name in attributes if name.startswith("on") or name == "style"], tag
        if "href" in attributes:
            assert re.fullmatch(r"#scan-\d+", attributes["href"] or "")
        if "src" in attributes:
            assert re.match(r"data:image/jpeg;base64,", attributes["src"] or "")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u061c\u200b-\u200f\u202a-\u202e\u2066-\u2069\ufeff]", text)
    policy = next(a["content"] for t, a in reader.tags if a.get("http-equiv") == "Content-Security-Policy")
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert style
    known = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    assert policy == (
        f"default-src 'none'; img-src data:; style-src 'sha256-{known}'; base-uri 'none'; form-action 'none'"
    )
    assert text.count("<style>") == 1
    assert "url(" not in style[1]
    return reader


def night_of(*outcomes: Outcome, **more: Any) -> Night:
    known = {"notes": (), "faults": (), **more}
    return Night("n.yaml", "h", "0", "2026-11-21T02:00:00+00:00", "2026-11-21T03:30:00+00:00", outcomes, **known)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    found = raw_store(folder, shape=(9,), size=(40, 50), layers=2)
    dfxm_dask.run_recipe(parse_recipe(RECIPE, folder / "short.yaml"), found)
    return found


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_night_page__nothing_that_a_file_says_can_run(text: str, tmp_path: Path) -> None:
    facts = without_facts(text, ValueError(text)) | {
        "remarks": [text],
        "numbers": [{"quantity": text, "value": 1.0, "unit": text}],
        "shown_layer": text,
        "absent": [text],
        "axes": [{"axis": text, "motor": text, "positions": 1, "first": 0.0, "last": 1.0, "unit": text}],
        "steps": [
            {
                "group": text,
                "step": text,
                "done": 1,
                "blocks": 2,
                "bytes": 3,
                "seconds": 4.0,
                "version": text,
                "parameters": {text: text},
            }
        ],
        "pictures": [{"name": text, "caption": text, "bytes": 3, "data": text}],
        "pictures_left_out": [text],
    }
    words = {"reason": text, "title": text, "sample": text, "left_out": ((text, text),)}
    outcomes = [Outcome(text, (text,), text, status, **words) for status in ("done", "failed", "unchanged")]
    night = night_of(*outcomes, notes=(text,), faults=(text,), stopped=text)
    page, beside = night_page(night, tmp_path / "n.html", {(text, (text,)): facts})
    # A picture that we did not draw becomes an empty address, which shows nothing.
    page.write_text(page.read_text().replace('src=""', 'src="data:image/jpeg;base64,"'))
    reader = read(page)
    said = "".join(reader.words)
    shown = seen_plainly(text)
    assert said.count(shown) >= 15
    assert len(shown) <= 404
    assert json.loads(beside.read_text())["outcomes"][0]["reason"] == text  # programs get it as it was


def test_seen_plainly__shows_what_is_not_seen() -> None:
    assert seen_plainly("a\u202eb\x00c") == "a\\u202eb\\u0000c"
    assert seen_plainly("Grüße, 試料 µm\t1") == "Grüße, 試料 µm 1"


def test_night_page__says_first_what_is_to_be_looked_after(tmp_path: Path, store: Path) -> None:
    facts = scan_facts(store)
    outcomes = [
        Outcome(
            "/d/a.h5",
            ("1.1",),
            str(store),
            "done",
            title="fscan mu",
            sample="Al",
            seconds=75.0,
            bytes_read=2_000_000,
            peak_rss_bytes=3_000_000,
            left_out=(("kam", "needs um"),),
        ),
        Outcome("/d/b.h5", ("2.1",), "b.zarr", "failed", "7 of 9 frames", failures=1),
        Outcome("/d/c.h5", ("1.1",), "c.zarr", "quarantined", "lost file", failures=3),
        Outcome("/d/d.h5", ("1.1",), "d.zarr", "deferred", "changed 5 s ago"),
        Outcome("/d/e.h5", ("1.1",), "e.zarr", "unchanged"),
    ]
    night = night_of(*outcomes, notes=("2 ascan left alone",))
    page, beside = night_page(night, tmp_path / "n.html", {("/d/a.h5", ("1.1",)): facts})
    text = " ".join(read(page).words)
    assert night_verdict(night) == "1 scan done, 1 failed, 1 quarantined, 1 deferred."
    places = [
        text.index(words)
        for words in (
            "Night of 21 November 2026",
            night_verdict(night),
            "Needs attention",
            "7 of 9 frames",
            "Done this night",
            "1 min 15 s",
            "needs um",
            "Maps of the rocking curve",
            "2 ascan left alone",
        )
    ]
    assert places == sorted(places)
    for words in ("1 h 30 min", "lost file", "Failed 3 times.", "changed 5 s ago", "1 unchanged", "2 MB", "3 MB"):
        assert words in text
    known = json.loads(beside.read_text())
    assert (known["schema"], known["kind"], known["complete"]) == (2, "night", False)
    assert known["counts"] == {"failed": 1, "quarantined": 1, "deferred": 1, "done": 1, "unchanged": 1}
    assert known["outcomes"][0]["facts"]["numbers"] == facts["numbers"]
    assert beside.stat().st_size < 20_000  # no pictures in it


def test_night_page__a_quiet_night_says_so(tmp_path: Path) -> None:
    quiet = night_of(Outcome("a.h5", ("1.1",), "a.zarr", "unchanged"))
    page, _ = night_page(quiet, tmp_path / "n.html", {})
    assert "Nothing new: 1 scan unchanged." in "".join(read(page).words)
    assert night_verdict(night_of()) == "Nothing new: no scans yet."
    # A root that is not there is not quiet.
    assert night_verdict(night_of(faults=("x matches nothing",))) == "0 scans done. 1 location could not be searched."


def test_night_page__stays_small_and_names_the_pictures_that_are_left_out(tmp_path: Path) -> None:
    outcomes, facts = [], {}
    for k in range(30):
        outcomes.append(Outcome(f"{k:02d}.h5", ("1.1",), "s.zarr", "done"))
        facts[f"{k:02d}.h5", ("1.1",)] = without_facts("s.zarr", ValueError("x")) | {
            "pictures": [
                {"name": name, "caption": name, "bytes": 300_000, "data": "data:image/jpeg;base64," + "A" * 299_977}
                for name in ("overview", "curves", "beams")
            ]
        }
    page, _ = night_page(night_of(*outcomes), tmp_path / "n.html", facts)
    assert 8_000_000 < page.stat().st_size < 10_000_000
    text = "".join(read(page).words)
    assert text.count("to keep this page small") == 90 - page.read_text().count("<img")
    assert page.read_text().count('alt="overview"') == 30  # the most telling ones stay


def test_scan_page__says_what_is_in_the_store(store: Path, tmp_path: Path) -> None:
    page, beside, known = scan_page(store, tmp_path / "s.html")
    assert known["complete"]
    reader = read(page)
    text = " ".join(reader.words)
    tree = dfxm_dask.open_scan(store, chunks=None)
    layer = tree["rocking"].dataset.isel(z=1).load()
    bits = dict(zip(layer.flags.attrs["flag_meanings"].split(), layer.flags.attrs["flag_masks"], strict=True))
    flags = layer.flags.values.astype(int)
    lit = np.isfinite(layer.total.values) & (flags & bits["unlit"] == 0)
    sound = lit & (flags & (bits["truncated"] | bits["single"]) == 0)
    written = json.loads(beside.read_text())
    numbers = {one["quantity"]: (one["value"], one["unit"]) for one in written["numbers"]}
    assert numbers["lit pixels"] == (100 * lit.mean(), "%")
    assert numbers["median centre of mass, phi"] == (np.median(layer.com_phi.values[sound]), "degree")
    assert f"{100 * lit.mean():.3g} %" in text
    place = f"z = {float(tree.z[1]):.4g} um (layer 2 of 2)"
    for words in (place, "phantom", "fscan mu 0.29", "raw/ingest", "rocking/moments", "Complete."):
        assert words in text
    pictures = [a["src"] for t, a in reader.tags if t == "img"]
    assert len(pictures) >= 3
    for picture in pictures:
        image = Image.open(io.BytesIO(base64.b64decode((picture or "").partition(",")[2])))
        assert image.format == "JPEG"
        assert min(image.size) > 200
        assert np.ptp(np.asarray(image.convert("L"))) > 100


def test_scan_page__a_store_that_is_not_complete_says_what_is_missing(store: Path, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(store, tmp_path / "s.zarr")
    next(p for p in (tmp_path / "s.zarr/rocking/com_phi/c").rglob("*") if p.is_file()).unlink()
    page, beside, known = scan_page(tmp_path / "s.zarr")
    assert page == tmp_path / "s.html"
    assert not known["complete"]
    text = " ".join(read(page).words)
    assert "NOT COMPLETE" in text
    assert "rocking/moments: 1 of 2 blocks are on disk" in text
    assert json.loads(beside.read_text())["complete"] is False
    for _ in range(2):  # the second page replaces the first
        result = CliRunner().invoke(cli, ["report", str(tmp_path / "s.zarr"), "--out", str(tmp_path / "r.html")])
        assert result.exit_code == 3, result.output
        assert "INCOMPLETE" in result.output
    assert (tmp_path / "r.json").exists()


def test_scan_page__refuses(tmp_path: Path, store: Path) -> None:
    with pytest.raises(StoreError, match="does not exist"):
        scan_page(tmp_path / "none.zarr")
    (tmp_path / "RAW_DATA").mkdir()
    (tmp_path / "way").symlink_to(tmp_path / "RAW_DATA")
    with pytest.raises(StoreError, match="is under RAW_DATA"):
        scan_page(store, tmp_path / "way/s.html")
    assert not [*(tmp_path / "RAW_DATA").iterdir()]


def test_nightly__command_writes_a_page_and_says_by_its_exit_code_what_is_left(tmp_path: Path) -> None:
    master = tmp_path / "RAW_DATA/s/s.h5"
    master.parent.mkdir(parents=True)
    write_bliss(master, shape=(9,), size=(40, 50))
    os.utime(master, (time.time() - 1e5,) * 2)
    (tmp_path / "short.yaml").write_text(RECIPE)
    (tmp_path / "n.yaml").write_text("raw: RAW_DATA\nreport: out\nrecipes: [short.yaml]\nworkers: 0\n")
    run = CliRunner()
    dry = run.invoke(cli, ["nightly", str(tmp_path / "n.yaml"), "--dry-run"])
    assert (dry.exit_code, (tmp_path / "out").exists()) == (0, False)
    assert "1 new" in dry.stdout
    first = run.invoke(cli, ["nightly", str(tmp_path / "n.yaml")])
    assert first.exit_code == 0, first.output
    assert "1 scan done." in first.stdout
    (page,) = (tmp_path / "out").glob("night_*.html")
    assert [t for t, _ in read(page).tags].count("img") == 2
    second = run.invoke(cli, ["nightly", str(tmp_path / "n.yaml")])
    assert second.exit_code == 0
    assert "Nothing new: 1 scan unchanged." in second.stdout
    assert len([*(tmp_path / "out").glob("night_*.html")]) == 2
    master.write_bytes(master.read_bytes() + b"x")  # changed just now
    third = run.invoke(cli, ["nightly", str(tmp_path / "n.yaml")])
    assert third.exit_code == 3
    assert "1 deferred" in third.stdout
    (tmp_path / "n.yaml").write_text("raw: RAW_DATA\n")
    refused = run.invoke(cli, ["nightly", str(tmp_path / "n.yaml")])
    assert refused.exit_code == 1
    assert refused.stderr.startswith("Error: ")
    assert "n.yaml:1: 'report'" in refused.stderr


def test_nightly__prints_schedules_and_does_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "n.yaml").write_text("raw: x\nreport: out\n")
    words = ["nightly", str(tmp_path / "n.yaml"), "--print-schedule"]
    every = CliRunner().invoke(cli, words)
    assert every.exit_code == 0
    for part in ("--- cron ---", "--- systemd ---", "--- scrontab ---", "0 2 * * * ", "OnCalendar=*-*-* 02:00:00"):
        assert part in every.stdout
    one = CliRunner().invoke(cli, [*words, "cron", "--at", "23:05"])
    assert "\n5 23 * * * /" in one.stdout
    assert "systemd" not in one.stdout
    assert [p.name for p in tmp_path.iterdir()] == ["n.yaml"]
