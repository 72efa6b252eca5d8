"""The pictures of a run can be read, from the first epoch's errors to the last one's."""

import numpy as np
import pytest

from flax_sepconv.training import plots
from tests.pictures import check, drawn

__all__ = ["drawn"]


def run(epochs, last, **more):
    """Return the rows of a run whose error falls from 80 % to its last one."""
    errors = np.geomspace(80, max(last, 0.02), epochs) if epochs > 1 else [last]
    rows = [
        {"epoch": n + 1, "loss": 0.03 * e + 0.01, "accuracy": 1 - e / 100, **more}
        for n, e in enumerate(errors)
    ]
    rows[-1]["accuracy"] = 1 - last / 100
    return rows


@pytest.mark.parametrize(
    ("epochs", "last", "test"), [(80, 0.4, 1.1), (80, 0.0, 0.0), (1, 60.0, 70.0), (5, 0.03, 4.0)]
)
def test_early_and_final_errors_can_both_be_read(epochs, last, test, drawn, tmp_path):
    rows = run(epochs, last, validation_loss=1.0, validation_accuracy=0.97)
    plots.learning_curves(rows, 1 - test / 100, epochs, "Made, seed 0", tmp_path / "a.png")
    ((figure, texts),) = drawn
    check(figure, texts)
    _, error = figure.axes
    heights = [
        error.transAxes.inverted().transform(error.transData.transform((1, y)))[1]
        for y in (0, 1, 5, last, test)
    ]
    low, high = error.get_ylim()
    assert low < 0 <= min(last, test)
    assert max(last, test) < high
    if epochs > 1:
        assert heights[2] > 0.4  # from 0 to 5 % takes more than a third of the panel
        assert heights[2] - heights[1] > 0.1


def test_the_confusion_matrix_is_readable_with_many_classes(drawn, tmp_path):
    n = 26
    truth = np.repeat(np.arange(n), 30)
    classes = [chr(97 + each) for each in range(n)]
    plots.confusion_matrix(truth, (truth + truth // 25) % n, classes, "Made", tmp_path / "a.png")
    ((figure, texts),) = drawn
    counts = [text.get_text() for text in figure.axes[0].texts]
    assert counts == ["30"] * n
    for axes in figure.axes:
        axes.set_xlabel("is better")  # of no use here
    check(figure, texts)
