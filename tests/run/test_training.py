"""Training from stores: files of labels, what is taken of them, and weights that are better than brightness."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

import dfxm_dask
from dfxm_dask.beams import classify_beams, local_peak
from dfxm_dask.beams.classify import dark_level
from dfxm_dask.beams.network import weights
from dfxm_dask.beams.network.labels import LabelledBox, lit_patches
from dfxm_dask.beams.network.scores import brightness_baseline, brightness_probability, evaluate
from dfxm_dask.beams.network.training import train
from dfxm_dask.beams.network.training_patches import LEVELS, labelled_patches, seen_patches
from dfxm_dask.errors import InputError
from dfxm_dask.frames import background
from dfxm_dask.run.labels import LabelledScan, open_scans, place_labels, read_labels
from dfxm_dask.run.training import _start, gather, patch_line, shortcomings, train_weights
from dfxm_dask.store import scan as scan_module
from dfxm_dask.store.integrity.attributes import recorded_steps

PHI = 0.002 * np.arange(5)


def made(
    name: str = "a.zarr",
    axes: tuple[str, ...] = ("phi",),
    reference: bool = True,
    units: str = "um",
    weak_beam: bool = True,
) -> Any:
    """A scan in memory: two layers of 128 × 200 pixels, whose right quarter is dark."""
    positions = {"phi": PHI, "chi": np.array([-1.0, 0.0, 1.0])}
    lengths = tuple(positions[a].size for a in axes)
    counts = np.random.default_rng(0).integers(100, 900, (2, *lengths, 128, 200)).astype(np.uint16)
    coords = {"z": ("z", [10.0, 11.0], {"units": "um"})} | {a: (a, positions[a], {"units": "degree"}) for a in axes}
    coords |= {d: (d, 0.1 * np.arange(n), {"units": units}) for d, n in (("y", 128), ("x", 200))}
    groups = {"/": xr.Dataset(coords=coords), "/raw": xr.Dataset({"counts": (("z", *axes, "y", "x"), counts)})}
    if reference:
        lit = np.broadcast_to(np.arange(200) < 150, (2, 128, 200))
        maps = {"peak_local": np.where(lit, 0.004, np.nan), "width_local": np.where(lit, 0.001, np.nan), "lit": lit}
        groups["/beams"] = xr.Dataset({k: (("z", "y", "x"), v) for k, v in maps.items()})
        groups["/beams"]["has_weak_beam"] = ("z", [True, weak_beam])
    return LabelledScan(Path(name), xr.DataTree.from_dict(groups))


def written(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


def test_read_labels__of_yaml_and_csv_are_the_same(tmp_path: Path) -> None:
    first = written(
        tmp_path / "a.yaml",
        "# mine\n- {z: 12, phi: 0.0123, box: [0, 64, 5, 70], class: weak, store: s.zarr}\n"
        "- z: 13.5\n  phi: -2e-3\n  class: strong\n",
    )
    second = written(
        tmp_path / "a.csv",
        "z, phi, y0, y1, x0, x1, class, store\n12, 0.0123, 0, 64, 5, 70, weak, s.zarr\n13.5,-2e-3,,,,,strong,\n",
    )
    expected = [
        LabelledBox(2, "weak", {"z": 12.0, "phi": 0.0123}, (0, 64, 5, 70), "s.zarr"),
        LabelledBox(3, "strong", {"z": 13.5, "phi": -0.002}),
    ]
    assert read_labels(first, ("phi",)) == expected
    assert read_labels(second, ("phi",)) == expected


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("- {z: 1, phi: 0, class: weak}\n- {phi: 0, class: weak}\n", r"a\.yaml:2: 'z': is missing; list entries such"),
        ("- {z: 1, phi: 0}\n", r"a\.yaml:1: 'class': is missing"),
        (
            "- {z: 1, phi: 0, class: week}\n",
            r"a\.yaml:1: class 'week': is unknown \(did you mean 'weak'\?\); use",
        ),
        (
            "- {z: 1, phi: 0, class: weak, bos: 3}\n",
            r"a\.yaml:1: 'bos': is unknown \(did you mean 'box'\?\); use z",
        ),
        ("- {z: 1, chi: 0, class: weak}\n", r"a\.yaml:1: 'chi': is unknown"),
        ("\n- {z: one, phi: 0, class: weak}\n", r"a\.yaml:2: 'z': is 'one'; give a number"),
        ("- {z: true, phi: 0, class: weak}\n", r"a\.yaml:1: 'z': is True; give a number"),
        ("- {z: 1, phi: .nan, class: weak}\n", r"a\.yaml:1: 'phi': is nan; give a number"),
        ("- {z: 1, phi: 0, class: weak, box: [0, 1, 2]}\n", r"a\.yaml:1: box: is \[0, 1, 2\]; give \[y0, y1, x0, x1\]"),
        ("- {z: 1, phi: 0, class: weak, box: [0, 1.5, 0, 2]}\n", r"a\.yaml:1: box: is 1\.5; give a whole number"),
        ("- {z: 1, z: 2, class: weak}\n", r"a\.yaml:1: 'z': occurs twice, first on line 1; list entries"),
        ("- &a {z: 1, phi: 0, class: weak}\n", r"a\.yaml:1: has an anchor or alias \('a'\); list entries"),
        ("z: 1\n", r"a\.yaml:1: labels: are not a list"),
        ("[]\n", r"a\.yaml:1: has no labels"),
        ("", r"a\.yaml:1: is empty; list entries"),
        ("- 3\n", r"a\.yaml:1: a label: is not a mapping"),
    ],
)
def test_read_labels__refusals_name_the_line(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        read_labels(written(tmp_path / "a.yaml", text), ("phi",))


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("z,phi,class\n1,0,weak\n\n1,0,odd\n", r"a\.csv:4: class 'odd': is unknown; use weak, strong, unlit"),
        ("z,phi,class\n1,0\n", r"a\.csv:2: has 2 cells, but the header has 3"),
        ("z,z,class\n1,0,weak\n", r"a\.csv:1: header: has a column twice"),
        ("z,phi,y0,y1,x0,x1,class\n1,0,3,,,,weak\n", r"a\.csv:2: box: is None; give a whole number"),
        ("z,phi,class\n", r"a\.csv:1: has no labels"),
        ('z,phi,class\n1,"0" 0,weak\n', r"a\.csv:2: is not CSV"),
        ("z,phi,class\n1_0,0,weak\n", r"a\.csv:2: 'z': is '1_0'; give a number"),
    ],
)
def test_read_labels__refusals_of_csv_name_the_line(tmp_path: Path, text: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        read_labels(written(tmp_path / "a.csv", text), ("phi",))
    with pytest.raises(InputError, match=r"absent\.csv:1: cannot be read .*; list entries such as"):
        read_labels(tmp_path / "absent.csv", ("phi",))


def test_place_labels__finds_layer_and_frame_along_every_axis() -> None:
    scans = [made("a.zarr"), made("b.zarr", axes=("chi", "phi"))]
    boxes = [
        LabelledBox(1, "weak", {"z": 11.2, "phi": 0.0041}, store="a.zarr"),
        LabelledBox(2, "strong", {"z": 10.0, "phi": 0.0061, "chi": 0.6}, store="b"),
        LabelledBox(3, "strong", {"z": 10.0, "phi": 0.006, "chi": 1.0}, (0, 9, 0, 9), store="b.zarr"),
    ]
    found = place_labels(boxes, scans, Path("l.yaml"))
    assert found == {(0, 1): {2: [boxes[0]]}, (1, 0): {2 * 5 + 3: boxes[1:]}}


@pytest.mark.parametrize(
    ("box", "match"),
    [
        (
            LabelledBox(4, "weak", {"z": 10, "phi": 0}),
            r"l\.yaml:4: 'store': is missing: a\.zarr, b\.zarr, b\.zarr; n",
        ),
        (LabelledBox(4, "weak", {"z": 10, "phi": 0}, store="c"), r"l\.yaml:4: store 'c': matches no scan: a\.zarr"),
        (LabelledBox(4, "weak", {"z": 10, "phi": 0}, store="b"), r"l\.yaml:4: store 'b': matches several scans"),
        (LabelledBox(4, "weak", {"z": 10}, store="a"), r"l\.yaml:4: 'phi': is missing; give z, phi"),
        (
            LabelledBox(4, "weak", {"z": 10, "phi": 0, "chi": 0}, store="a"),
            r"l\.yaml:4: 'chi': is not an axis of a\.zarr",
        ),
        (LabelledBox(4, "weak", {"z": 11.6, "phi": 0}, store="a"), r"l\.yaml:4: z 11\.6: the nearest of 2 positions"),
        (LabelledBox(4, "weak", {"z": 10, "phi": -0.0011}, store="a"), r"l\.yaml:4: phi -0\.0011: .* degree is 0;"),
        (
            LabelledBox(4, "weak", {"z": 10, "phi": 0}, (0, 129, 0, 9), "a"),
            r"l\.yaml:4: box \[0, 129, 0, 9\]: is",
        ),
    ],
)
def test_place_labels__refusals_name_the_line(box: LabelledBox, match: str) -> None:
    with pytest.raises(InputError, match=match):
        place_labels([box], [made("a.zarr"), made("x/b.zarr"), made("y/b.zarr")], Path("l.yaml"))


def test_gather__takes_the_patches_that_are_labelled_and_lit(tmp_path: Path) -> None:
    scan = made()
    labels = written(
        tmp_path / "l.csv",
        "z,phi,y0,y1,x0,x1,class\n10,0.004,0,64,0,200,strong\n10,0.004,64,128,0,200,weak\n11,0,,,,,weak\n",
    )
    data, about = gather([scan], str(labels), most=1000, seed=0, dark=100.0)
    frames = scan.counts.values
    # Patches start at columns 0, 64, 128 and, shifted back, 136: the last two are mostly dark.
    expected = [(frames[0, 2, 0:64, x : x + 64], 1, 0) for x in (0, 64)]
    expected += [(frames[0, 2, 64:128, x : x + 64], 0, 0) for x in (0, 64)]
    expected += [(frames[1, 0, y : y + 64, x : x + 64], 0, 1) for y in (0, 64) for x in (0, 64)]
    assert len(data["labels"]) == len(expected)
    for k, (patch, label, group) in enumerate(expected):
        np.testing.assert_array_equal(data["patches"][k], patch)
        assert (data["labels"][k], data["groups"][k], data["dark"][k]) == (label, group, 100)
    assert (about["weak"], about["strong"], about["unlit"]) == ([6, 6], [2, 2], 8)
    assert about["layers"] == [{"store": "a.zarr", "z": 10.0}, {"store": "a.zarr", "z": 11.0}]
    assert patch_line(about) == (
        "patches: 6 of 6 weak and 2 of 2 strong, of 2 of 2 layers; 8 labels belong to patches without light"
    )
    few, about = gather([scan], str(labels), most=4, seed=0, dark=100.0)
    assert (about["weak"], about["strong"]) == ([2, 6], [1, 2])  # one of each class and layer
    assert len(few["labels"]) == 3
    # The rocking curve: its peak is at 0.004, its half width 0.001, its patches are lit in the same places.
    data, about = gather([scan], "prior", most=1000, seed=0, dark=None)
    assert (about["weak"], about["strong"]) == ([16, 16], [8, 8])
    assert about["without_weak_beam"] == 0
    assert about["dark"] == [dark_level(np.moveaxis(layer, 0, -1)) for layer in frames]


def test_gather__leaves_out_layers_without_a_weak_beam() -> None:
    data, about = gather([made(weak_beam=False)], "prior", most=1000, seed=0, dark=100.0)
    assert set(data["groups"]) == {0}
    assert (about["weak"], about["strong"]) == ([8, 8], [4, 4])
    assert patch_line(about).endswith("of 2 of 2 layers; 1 layer without a weak beam gave no labels")
    scan = made()
    scan.tree["beams"]["has_weak_beam"][:] = False
    with pytest.raises(InputError, match="labels prior: 2 of 2 layers have no weak beam; scan further into the tails"):
        gather([scan], "prior", most=1000, seed=0, dark=100.0)


def test_gather__refusals(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"labels truth of a\.zarr: the store contains no truth; use --labels prior"):
        gather([made()], "truth", most=9, seed=0, dark=None)
    one = written(tmp_path / "l.csv", "z,phi,class\n11,0,weak\n11,0.002,strong\n")
    with pytest.raises(InputError, match=r"all belong to the layer z 11 of a\.zarr; label frames of a second layer"):
        gather([made()], str(one), most=9, seed=0, dark=None)
    dark = written(tmp_path / "l.csv", "z,phi,y0,y1,x0,x1,class\n10,0,0,128,150,200,weak\n11,0,0,128,150,200,strong\n")
    with pytest.raises(InputError, match=r"l\.csv: no weak or strong patch is lit; label more"):
        gather([made()], str(dark), most=9, seed=0, dark=None)
    with pytest.raises(
        InputError, match=r"training on a\.zarr: coordinate 'x': has units 'pixel': the effective pixel"
    ):
        gather([made(reference=False, units="pixel")], "prior", most=9, seed=0, dark=None)
    with pytest.raises(InputError, match="training: no store is given"):
        open_scans([])
    with pytest.raises(InputError, match="training: a store is named twice"):
        open_scans(["a.zarr", "./a.zarr"])


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two layers to learn from and one that is never shown, of one sample."""
    folder = tmp_path_factory.mktemp("training")
    paths = [folder / "a.zarr", folder / "unseen.zarr"]
    for seed, (path, layers) in enumerate(zip(paths, (2, 1), strict=True)):
        dfxm_dask.simulate("multigrain", path, layers=layers, shape=(128, 192), seed=20 + seed)
    return paths


@pytest.fixture(scope="module")
def trained(stores: list[Path]) -> Path:
    out = stores[0].with_name("w.safetensors")
    said: list[str] = []
    train_weights([stores[0]], out, labels="truth", start="none", epochs=12, seed=3, say=said.append)
    assert said[0].startswith("patches: ")
    assert [line.split(":")[0] for line in said[1:]] == [f"epoch {k}" for k in range(1, len(said))]
    return out


def unseen_layer(path: Path) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, np.ndarray], np.ndarray]:
    """Counts (y, x, phi), positions, maps and truth of the layer that is never shown."""
    tree = dfxm_dask.open_scan(path, chunks=None)
    raw = tree["raw"].dataset
    counts = np.moveaxis(raw["counts"].values[0], 0, -1)
    scan = {"phi": raw["phi"].values}
    level = background.kernel(counts, scan)["background_map"]
    maps = local_peak.kernel(counts, scan, raw["y"].values, raw["x"].values, level)
    return counts, scan, maps, tree["truth"].dataset["label"].values[0]


@pytest.mark.slow
def test_train_weights__beat_brightness_where_they_are_used(stores: list[Path], trained: Path) -> None:
    counts, scan, maps, label = unseen_layer(stores[1])
    chosen = {name: maps[name] for name in ("lit", "peak_local", "width_local")}
    p = classify_beams.kernel(counts, scan, **chosen, method="lcnn", weights=str(trained), device="cpu")["p_weak"]
    p = np.moveaxis(p, -1, 0)
    clear = np.isin(label, (1, 2)) & lit_patches(maps["lit"])
    assert np.isfinite(p[clear]).all()
    found = evaluate(p[clear], label[clear] - 1)
    data, _ = gather(open_scans([stores[0]]), "truth", most=10_000, seed=0, dark=None)
    fit = brightness_baseline(seen_patches(data["patches"], data["levels"], data["dark"]), data["labels"])
    level = dark_level(counts)
    test = labelled_patches(
        np.moveaxis(counts, -1, 0), np.where(lit_patches(maps["lit"]), label, 0), dark=level, lit=maps["lit"]
    )
    seen = seen_patches(test["patches"], test["levels"], test["dark"])
    alone = evaluate(brightness_probability(fit, seen), test["labels"])
    assert found["patches"] == alone["patches"] > 50
    assert found["accuracy"] > max(0.9, alone["accuracy"] + 0.05)
    known = weights.facts(trained)
    assert known["training"]["labels"] == {"source": "truth"}
    assert known["training"]["start"] is None
    assert set(known["scores"]) == {"held_out", "brightness"}
    assert str(stores[0].parent) not in json.dumps(known)
    digests = known["training"]["stores"][0]["content"]
    tree = dfxm_dask.open_scan(stores[0], chunks=None)
    assert digests["raw/ingest"] == recorded_steps(tree["raw"].attrs)["ingest"]["digest"]


def test_train_weights__are_the_same_for_a_seed(stores: list[Path], tmp_path: Path) -> None:
    written = []
    for k, seed in enumerate((5, 5, 6)):
        out = tmp_path / f"w{k}.safetensors"
        train_weights(stores, out, labels="prior", start="none", epochs=1, seed=seed, most=60)
        written.append((out.read_bytes(), weights.facts(out)["training"]["drawn"]))
    assert written[0] == written[1]
    assert written[0][0] != written[2][0]
    drawn = written[0][1]
    assert all(taken <= 30 < total for taken, total in (drawn["weak"], drawn["strong"]))
    assert [one["store"] for one in drawn["layers"]] == ["a.zarr", "a.zarr", "unseen.zarr"]


def test_train_weights__go_on_from_weights_and_do_not_get_worse(stores: list[Path], tmp_path: Path) -> None:
    tree = dfxm_dask.open_scan(stores[0], chunks=None)
    label, phi = tree["truth"].dataset["label"].values, tree["raw"].dataset["phi"].values
    lines = []
    for k in range(2):
        weak, strong = ((label[k] == kind).sum((1, 2)) for kind in (1, 2))
        for f in {int(weak.argmax()), int(strong.argmax()), int(np.minimum(weak, strong).argmax())}:
            for (i, j), kind in np.ndenumerate(label[k, f]):
                if kind in (1, 2):
                    box = f"[{64 * i}, {64 * i + 64}, {64 * j}, {64 * j + 64}]"
                    lines.append(
                        f"- {{z: {k}, phi: {phi[f]:.6f}, box: {box}, class: {('weak', 'strong')[kind - 1]}}}\n"
                    )
    labels = written(tmp_path / "six.yaml", "".join(lines))
    out = tmp_path / "w.safetensors"
    known = train_weights([stores[0]], out, labels=str(labels), epochs=4)
    scores = known["scores"]
    assert scores["held_out"]["accuracy"] >= scores["start"]["accuracy"]
    assert known["architecture"] == weights.facts(weights.shipped())["architecture"]
    assert known["training"]["start"]["name"] == "compact"
    assert known["training"]["labels"]["source"] == "six.yaml"
    assert weights.load(out)[1]["temperature"] <= 3
    # A rate that would ruin them: what they began with is kept, to the last bit.
    import dfxm_dask.run.training as module

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "FINE_TUNED", {"rate": 10.0, "patience": 1})
        known = train_weights([stores[0]], out, labels=str(labels), epochs=2, overwrite=True)
    assert known["training"]["best_epoch"] == 0
    assert out.read_bytes() == weights.shipped().read_bytes()
    assert known["scores"]["held_out"]["log_loss"] <= known["scores"]["start"]["log_loss"]
    assert len(shortcomings(known["scores"])) >= 1


def test_gather__reads_only_the_frames_that_are_needed(
    stores: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (scan,) = open_scans([stores[0]])
    lit = np.ones((2, 128, 192), bool)
    maps = {"lit": lit, "peak_local": np.zeros(lit.shape), "width_local": np.ones(lit.shape)}
    beams = xr.Dataset({k: (("z", "y", "x"), v) for k, v in maps.items()}).assign(has_weak_beam=("z", [True, True]))
    scan.tree["beams"] = xr.DataTree(beams)
    phi = scan.counts["phi"].values
    labels = written(tmp_path / "l.csv", f"z,phi,class\n0,{phi[3]},weak\n1,{phi[20]},strong\n1,{phi[21]},weak\n")
    frames: list[int] = []
    read = scan_module.shards.read

    def counted(array: Any, box: tuple[slice, ...], **options: Any) -> np.ndarray:
        found = read(array, box, **options)
        frames.append(int(np.prod(found.shape[:-2])))
        return found

    monkeypatch.setattr(scan_module.shards, "read", counted)
    data, _ = gather([scan], str(labels), most=100, seed=0, dark=100.0)
    assert frames == [1, 1, 1]
    expected = [scan.counts.values[z, f] for z, f in ((0, 3), (1, 20), (1, 21))]
    np.testing.assert_array_equal(data["patches"][::6], [frame[:64, :64] for frame in expected])


def test_train__holds_out_a_layer_that_leaves_both_classes_and_stays_sober() -> None:
    rng = np.random.default_rng(0)
    labels, groups = np.arange(120) % 2, np.repeat([0, 1, 2], 40)
    levels = np.sort(rng.uniform(100, 1000, (120, LEVELS)), axis=1).astype(np.float32)
    bright = rng.poisson(150 + 700 * labels[:, None, None], (120, 64, 64)).astype(np.uint16)
    pure = np.repeat([0, 1], 60)
    with pytest.raises(
        InputError, match="training on 2 layers: for every choice of held-out layers, the others contain"
    ):
        train(bright, pure, pure, levels=levels)
    _, record = train(bright, labels, groups, levels=levels, epochs=6, batch=16)
    # All are found. From 40 patches follows no more than that about one of 42 may be wrong.
    assert record["scores"]["accuracy"] == 1
    assert 0.005 < record["scores"]["log_loss"] < 0.2
    _, record = train(bright, np.where(groups == 2, 1 - labels, labels), groups, levels=levels, epochs=2, held_out=[2])
    assert record["temperature"] == pytest.approx(3)


def test_train_weights__refusals(stores: list[Path], trained: Path, tmp_path: Path) -> None:
    out = tmp_path / "w.safetensors"
    with pytest.raises(InputError, match=r"w\.pt: end in '\.pt'; name the file with \.safetensors"):
        train_weights(stores, tmp_path / "w.pt", labels="truth")
    with pytest.raises(InputError, match=r"w\.safetensors: already exist; use --overwrite"):
        train_weights(stores, trained, labels="truth")
    with pytest.raises(InputError, match=r"training: epochs=0, most=6000; give at least 1 epoch and 2 patches"):
        train_weights(stores, out, labels="truth", epochs=0)
    with pytest.raises(InputError, match=r"training of 'published': the initial weights are of 'compact'; use"):
        train_weights(stores, out, labels="truth", architecture="published")
    with pytest.raises(InputError, match=r"shipped weights 'compcat': are unknown \(did you mean 'compact'\?\)"):
        train_weights(stores, out, labels="truth", start="compcat")
    with pytest.raises(InputError, match="all patches are of one layer; label frames of a second layer"):
        train_weights(stores[1:], out, labels="truth")
    assert _start(str(trained), "compact")[1]["training"]["labels"] == {"source": "truth"}
    assert not out.exists()


def test_open_scans__refuses_a_store_without_counts(tmp_path: Path) -> None:
    dfxm_dask.simulate("easy", tmp_path / "s.h5", layers=1, shape=(64, 64), format="bliss")
    with pytest.raises(InputError, match=r"s_truth\.zarr: it has no raw counts; give the store of an ingest"):
        open_scans([tmp_path / "s_truth.zarr"])


def test_shortcomings__are_said_plainly() -> None:
    good, poor = {"accuracy": 0.9, "log_loss": 0.2}, {"accuracy": 0.8, "log_loss": 0.1}
    assert shortcomings({"held_out": good, "start": poor, "brightness": poor}) == []
    assert shortcomings({"held_out": good, "brightness": {"accuracy": 0.9, "log_loss": 0.3}}) == []
    first, second = shortcomings({"held_out": poor, "start": poor, "brightness": good})
    assert first.startswith("NOT BETTER than the initial weights on the held-out layers: accuracy 80.00 % and 80.00")
    assert second.startswith("NOT BETTER than brightness alone on the held-out layers: accuracy 80.00 % and 90.00 %")
