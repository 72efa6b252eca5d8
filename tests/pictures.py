"""What is asked of every picture: that it can be read where a page shows it 850 pixels wide."""

import itertools

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

PAGE = 850


@pytest.fixture
def drawn(monkeypatch):
    """Catch the figures that are saved, each with the texts in it that are really drawn."""
    caught, texts = [], []
    draw = Text.draw

    def record(self, renderer):
        if self.get_visible() and self.get_text().strip():
            texts.append(self)
        draw(self, renderer)

    def savefig(self, path, **_):
        texts.clear()
        FigureCanvasAgg(self).draw()
        caught.append((self, {id(text): text for text in texts}.values()))

    monkeypatch.setattr(Text, "draw", record)
    monkeypatch.setattr(Figure, "savefig", savefig)
    return caught


def check(figure, texts):
    """Check sizes, that nothing lies over a text or outside, and that axes say what is better."""
    scale = PAGE / figure.bbox.width
    for text in texts:
        pixels = text.get_fontsize() / 72 * figure.dpi * scale
        assert pixels >= 11, text
    boxes = [(text, text.get_window_extent()) for text in texts]
    for text, box in boxes:
        assert box.x0 >= -1, text
        assert box.y0 >= -1, text
        assert box.x1 <= figure.bbox.x1 + 1, text
        assert box.y1 <= figure.bbox.y1 + 1, text
    for (one, box), (other, its) in itertools.combinations(boxes, 2):
        assert box.padded(-1).count_overlaps([its.padded(-1)]) == 0, (one, other)
        if one.get_rotation() == other.get_rotation() == 0 and abs(box.y0 - its.y0) < 3:
            assert max(box.x0, its.x0) - min(box.x1, its.x1) >= 8 / scale, (one, other)
    for axes in figure.axes:
        assert axes.get_xlabel()
        assert "is better" in axes.get_xlabel() + axes.get_ylabel()


def points(axes):
    """Return the points of a panel, in pixels of a page; all of them lie inside it."""
    found = []
    for line in axes.get_lines():
        if line.get_marker() not in ("None", "x") and len(line.get_xdata()):
            places = axes.transData.transform(line.get_xydata())
            assert all(axes.bbox.padded(1).contains(*place) for place in places)
            found.append(places)
    return np.concatenate(found) * PAGE / axes.figure.bbox.width


def apart(places):
    """Return how near the nearest two points are."""
    distances = np.linalg.norm(places[:, None] - places[None], axis=-1)
    return distances[~np.eye(len(places), dtype=bool)].min()
