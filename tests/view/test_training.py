"""Figures and words of a training: what they show, and that all of it can be read."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from dfxm_dask.beams.network.weights import facts, shipped
from dfxm_dask.view.training import draw_confusion, draw_learning, show_training, training_figures

PNG = b"\x89PNG\r\n\x1a\n"


def score(accuracy: float, log_loss: float, counts: list[list[int]]) -> dict[str, Any]:
    return {
        "patches": int(np.sum(counts)),
        "accuracy": accuracy,
        "log_loss": log_loss,
        "weak_recall": 0.5,
        "strong_recall": None,
        "calibration_error": 0.0123,
        "confusion": {"classes": ["weak", "strong"], "axes": ["truth", "found"], "counts": counts},
    }


def known(best: int = 3, epochs: int = 7) -> dict[str, Any]:
    """Facts of weights that are better than what they began with, and no better than brightness."""
    curves = [
        {"epoch": k, "train_loss": 0.5 / k, "held_out_loss": 0.3 / k + 0.02 * k, "held_out_accuracy": 0.9 + 0.01 * k}
        for k in range(1, epochs + 1)
    ]
    return {
        "training": {"curves": curves, "best_epoch": best},
        "scores": {
            "held_out": score(0.9, 0.2, [[30, 5], [7, 160]]),
            "start": score(0.85, 0.4, [[30, 5], [7, 160]]),
            "brightness": score(0.95, 0.1, [[30, 5], [7, 160]]),
        },
    }


def check_page(page: Any) -> list[str]:
    """Every text lies on the page, and no two overlap. Returns the texts."""
    canvas = FigureCanvasAgg(page)
    canvas.draw()
    texts = list(page.texts)
    for axes in page.axes:
        texts += [axes.title, axes.xaxis.label, axes.yaxis.label, *axes.texts]
        texts += axes.get_legend().get_texts() if axes.get_legend() else []
        for axis in (axes.xaxis, axes.yaxis):
            low, high = sorted(axis.get_view_interval())
            labels = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=True)
            texts += [label for place, label in labels if low <= place <= high]
    boxes = [(t.get_text(), t.get_window_extent(canvas.get_renderer())) for t in texts if t.get_text().strip()]
    for index, (words, box) in enumerate(boxes):
        assert box.x0 >= -1, words
        assert box.y0 >= -1, words
        assert box.x1 <= page.bbox.width + 1, words
        assert box.y1 <= page.bbox.height + 1, words
        for other, second in boxes[index + 1 :]:
            across = min(box.x1, second.x1) - max(box.x0, second.x0)
            up = min(box.y1, second.y1) - max(box.y0, second.y0)
            assert across < 1 or up < 1, (words, other)
    return [words for words, _ in boxes]


def test_learning__shows_both_curves_and_the_epoch_that_was_kept() -> None:
    page = draw_learning(known(), "w")
    words = check_page(page)
    loss, accuracy = page.axes
    rows = known()["training"]["curves"]
    drawn = {line.get_label(): line for line in loss.lines}
    assert drawn["trained on"].get_xdata().tolist() == [1, 2, 3, 4, 5, 6, 7]
    assert drawn["trained on"].get_ydata().tolist() == [row["train_loss"] for row in rows]
    assert drawn["held out"].get_ydata().tolist() == [row["held_out_loss"] for row in rows]
    assert list(drawn["kept"].get_xdata()) == [3, 3]
    drawn = {line.get_label(): line for line in accuracy.lines}
    assert drawn["held out"].get_ydata().tolist() == [100 * row["held_out_accuracy"] for row in rows]
    assert list(drawn["initial weights"].get_ydata()) == [85, 85]
    assert list(drawn["brightness alone"].get_ydata()) == [95, 95]
    assert "w: epoch 3 is kept" in words
    assert {"log loss (nat)", "accuracy (%)"} <= set(words)


@pytest.mark.parametrize("epochs", [1, 2, 60])
def test_learning__says_that_the_beginning_was_best(epochs: int) -> None:
    page = draw_learning(known(best=0, epochs=epochs), "w")
    assert "w: the initial weights are kept: no epoch was better" in check_page(page)
    assert "kept" not in [line.get_label() for axes in page.axes for line in axes.lines]


def test_confusion__has_truth_in_rows_and_their_percentages() -> None:
    page = draw_confusion(known(), "w")
    words = check_page(page)
    (axes,) = page.axes
    assert (axes.get_ylabel(), axes.get_xlabel()) == ("truth", "found")
    assert [t.get_text() for t in axes.get_yticklabels()] == ["weak", "strong"]
    assert [t.get_text() for t in axes.get_xticklabels()] == ["weak", "strong"]
    found = {(t.get_position()[1], t.get_position()[0]): t.get_text() for t in axes.texts}
    assert found == {(0, 0): "30\n85.7 %", (0, 1): "5\n14.3 %", (1, 0): "7\n4.2 %", (1, 1): "160\n95.8 %"}
    np.testing.assert_allclose(axes.images[0].get_array(), [[30 / 35, 5 / 35], [7 / 167, 160 / 167]])
    assert "per cent of each row (truth)" in words
    none = copy.deepcopy(known())
    none["scores"]["held_out"]["confusion"]["counts"] = [[0, 0], [7, 160]]
    assert "0\nno such patch" in check_page(draw_confusion(none, "w"))


def test_training_figures__are_written_beside_the_weights(tmp_path: Path) -> None:
    written = training_figures(facts(shipped()), tmp_path / "mine.safetensors")
    assert written == [tmp_path / "mine_curves.png", tmp_path / "mine_confusion.png"]
    assert all(path.read_bytes()[:8] == PNG for path in written)


def test_show_training__compares_and_warns(capsys: pytest.CaptureFixture[str]) -> None:
    show_training(known())
    text = capsys.readouterr().out
    rows = {line.split("  ")[0].strip(): line.split() for line in text.splitlines() if line.strip()}
    assert rows["trained"][-5:] == ["90.00", "50.00", "none", "0.012", "0.2000"]
    assert rows["initial weights"][-5:] == ["85.00", "50.00", "none", "0.012", "0.4000"]
    assert rows["brightness alone"][-5:] == ["95.00", "50.00", "none", "0.012", "0.1000"]
    assert "202 patches of the layers held out" in text
    assert "(epoch 3 of 7 is kept)" in text
    assert "NOT BETTER than brightness alone" in text
    assert "NOT BETTER than the weights" not in text
