"""What all pictures share: sizes that stay readable on a page, colours, rows and axes of ratios."""

import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import FigureBase
from matplotlib.lines import Line2D
from matplotlib.ticker import Locator, NullLocator

WIDTH = 8.5  # inches: where a page shows a picture 850 pixels wide, 9 points are 12 pixels
SMALL = 9  # points: no text is smaller
ROW = 0.41  # inches: two lines of text, and space

# Told apart by colour-blind readers as well; series in one panel differ in their markers too.
OURS, LIGHT, STOCK, RIVAL = "#1b5e45", "#56b490", "#0072b2", "#d55e00"
INK, GREY, FAINT, BAND, REST = "#222222", "#666666", "#d4d4d4", "#f3f3f3", "#b9c4cc"

TITLES = {"forward": "forward", "forward_backward": "forward and all gradients"}
LOWER, HIGHER = "(lower is better)", "(higher is better)"
_DOTTED: Any = {"linestyle": (0, (2, 2)), "linewidth": 1.2}

_STYLE: Any = {
    "font.size": SMALL,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.titlepad": 18,  # the numbers of means are below it
    "axes.labelsize": SMALL,
    "figure.titlesize": SMALL,
    "text.color": INK,
    "axes.titlecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    **{f"axes.spines.{side}": False for side in ("left", "right", "top", "bottom")},
    "axes.grid": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "lines.markersize": 6,
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
    "figure.constrained_layout.w_pad": 0.12,
}

Row = Mapping[str, Any]
Ratios = Sequence[float | None]


def styled() -> Any:
    """Return a context, or a decorator, in which a picture is made and saved."""
    return rc_context(_STYLE)


class RoundNumbers(Locator):
    """Ticks of a logarithmic axis: as many round numbers as there is room for their labels."""

    axis: Axis
    _LADDERS: tuple[tuple[float, ...], ...] = (
        (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 9),
        (1, 1.5, 2, 3, 5, 7),
        (1, 2, 5),
        (1, 3),
        (1,),
    )

    def __call__(self) -> list[float]:
        """Return the ticks for what the axis shows."""
        low, high = sorted(self.axis.get_view_interval())
        return self.tick_values(low, high)

    def tick_values(self, vmin: float, vmax: float) -> list[float]:
        """Return the ticks between two positive numbers."""
        room = self.axis.get_tick_space() / math.log10(vmax / vmin)  # labels for a decade
        for ladder in self._LADDERS:
            gaps = [after / step for step, after in zip(ladder, (*ladder[1:], 10), strict=True)]
            if room * math.log10(min(gaps)) >= 1:
                break
        decades = range(math.floor(math.log10(vmin)), math.ceil(math.log10(vmax)) + 1)
        ticks = [step * 10.0**decade for decade in decades for step in ladder]
        return [tick for tick in ticks if vmin <= tick <= vmax]


def round_numbers(axis: Axis, unit: str = "") -> None:
    """Give a logarithmic axis round numbers, and a unit behind each."""
    axis.set_major_locator(RoundNumbers())
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(f"{{x:g}}{unit}")


def ratio_axis(axes: Axes, label: str) -> None:
    """Make the horizontal axis, which has its points, one of ratios; 1 is on it, as a line."""
    axes.set_xscale("log")
    round_numbers(axes.xaxis, "x")
    axes.axvline(1, color=INK, linewidth=1, zorder=1.5)
    low, high = axes.get_xlim()
    axes.set_xlim(min(low, 0.85), max(high, 1.2))
    axes.set_xlabel(label)


def rows(panels: Iterable[Axes], named: Sequence[Row]) -> None:
    """Give panels beside each other a row for each workload, from the bottom, named at the left."""
    for number, axes in enumerate(panels):
        axes.set_yticks([])
        axes.set_ylim(-0.5, len(named) - 0.5)
        for height in range(0, len(named), 2):
            axes.axhspan(height - 0.5, height + 0.5, color=BAND, linewidth=0, zorder=0)
        for height, row in enumerate(named if number == 0 else ()):
            beside: Any = {"xycoords": ("axes fraction", "data"), "ha": "right"}
            name = row["workload"].removesuffix("-0")
            note(axes, name, (0, height), (-8, 0), va="bottom", color=INK, **beside)
            note(axes, short(row["shape"]), (0, height), (-8, -1), va="top", **beside)


def note(
    axes: Axes, text: str, at: tuple[float, float], points: tuple[float, float], **style: Any
) -> None:
    """Write so many points beside a place."""
    style = {"color": GREY, **style}
    axes.annotate(text, at, points, textcoords="offset points", **style)


def short(shape: str) -> str:
    """Write a workload's sizes without those that are 1 in most.

    Example:
        >>> short("B8 L2999 C512->128 K3 S1 D8 M1 same")
        'B8 L2999 C512→128 K3 D8 same'
    """
    words = [word for word in shape.split() if word not in ("S1", "D1", "M1")]
    return " ".join(words).replace("->", "\N{RIGHTWARDS ARROW}")


def height(row: int, place: int, count: int) -> float:
    """Return where in its row the first, second... of so many series is: none hides another."""
    return row + 0.8 / count * ((count - 1) / 2 - place)


def dots(axes: Axes, ratios: Ratios, place: int, count: int, **style: Any) -> None:
    """Draw one of so many series: a point in each row that has a number."""
    found = [(x, height(row, place, count)) for row, x in enumerate(ratios) if x is not None]
    if found:
        axes.plot(*zip(*found, strict=True), linestyle="", zorder=3, **style)


def mark_means(axes: Axes, means: Iterable[tuple[float | None, str]]) -> None:
    """Draw a line at each mean, its number above it, to the outer side where there are two."""
    known = sorted((mean, colour) for mean, colour in means if mean is not None)
    for (mean, colour), side in zip(known, ("right", "left"), strict=False):
        axes.axvline(mean, color=colour, zorder=1, **_DOTTED)
        text = f"{mean:.{1 if mean >= 10 else 2}f}x"
        above: Any = {"xycoords": ("data", "axes fraction"), "ha": side}
        note(axes, text, (mean, 1), (-4 if side == "right" else 4, 3), color=colour, **above)


def legend(figure: FigureBase, panels: Iterable[Axes], *more: Artist) -> None:
    """Explain below the panels, once, what is in them, and more."""
    found: dict[str, Artist] = {}
    for axes in panels:
        handles, labels = axes.get_legend_handles_labels()
        found |= dict(zip(labels, handles, strict=True))
    figure.legend(handles=[*found.values(), *more], loc="outside lower center", ncols=2)


def mean() -> Line2D:
    """Return what a legend explains a mean's line by."""
    return Line2D([], [], color=GREY, label="geometric mean", **_DOTTED)


def caption(figure: FigureBase, text: str) -> None:
    """Write over the panels what was measured, and on what."""
    figure.suptitle(textwrap.fill(text, 125), x=0.01, ha="left", color=GREY)


def conditions(record: Row) -> str:
    """Return the type, the machine, the date and the versions of a run on the processor."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    machine = f"{record['processor']}, {record['cores']} cores"
    return f"float32, {machine}, {record['date'][:10]}; {versions}"
