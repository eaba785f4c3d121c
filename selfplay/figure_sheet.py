"""The sheet that a figure is drawn on: its panels, title, legend and caption, and the file that it becomes.

matplotlib is imported when a sheet is made.  The same drawing gives the same file, byte for byte.
"""

from __future__ import annotations

import io
import re
import textwrap
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from selfplay.curves import BandKind
from selfplay.plots import COLOURS, STYLES

__all__ = ["Look", "Sheet", "for_page", "new_sheet", "printable", "rendered"]

NUM_COLUMNS = 3
PANEL = (4.2, 2.8)  # inches
WIDTH_OF_ONE = 6.4  # where there is only one
PANEL_OF_PAGE = (3.7, 2.5)
TITLE_HEIGHT, LEGEND_HEIGHT, CAPTION_HEIGHT = 0.4, 0.2, 0.15  # inches, of a line
EDGE = 0.1
LETTER_WIDTH, HANDLE_WIDTH = 0.078, 0.62  # inches, in a legend
DPI = 130
# Placeholders of a page's own colours, which its stylesheet sets for light and dark.
PAGE_COLOURS = {"#010101": "var(--text)", "#020202": "var(--dim)", "#030303": "var(--line)"} | {
    f"#0404{number:02d}": f"var(--line{number})" for number in range(len(COLOURS))
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """How figures are drawn."""

    smooth: int = 1  # updates that each point is the mean of
    band: BandKind = "range"
    is_for_page: bool = False  # colours are a page's own, no caption, text stays text

    @property
    def text(self) -> str:
        """Colour of titles and labels."""
        return "#010101" if self.is_for_page else "#1a1a1a"

    @property
    def dim(self) -> str:
        """Colour of ticks and captions."""
        return "#020202" if self.is_for_page else "#555555"

    @property
    def line(self) -> str:
        """Colour of the grid."""
        return "#030303" if self.is_for_page else "#dddddd"

    def colour(self, number: int) -> str:
        """Colour of the n-th line."""
        place = number % len(COLOURS)
        return f"#0404{place:02d}" if self.is_for_page else COLOURS[place]

    def style(self, number: int) -> str:
        """Dashes of the n-th line: colour is never all that tells lines apart."""
        return STYLES[number % len(STYLES)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """What a figure is about, around its panels."""

    title: str
    labels: Sequence[str]  # of its lines; a single one has no legend
    caption: str


def new_sheet(num_panels: int, sheet: Sheet, *, look: Look) -> tuple[Any, list[Any]]:
    """Return a figure and its panels.

    For a page it is small, so that letters are large where the page stretches it, and has no title or caption: the page
    writes those.
    """
    # An agg canvas of its own: no window, no global state.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    columns = 2 if num_panels == 4 else min(NUM_COLUMNS, num_panels)
    rows = -(-num_panels // columns)
    labels = [printable(label) for label in sheet.labels]
    panel = PANEL_OF_PAGE if look.is_for_page else PANEL if num_panels > 1 else (WIDTH_OF_ONE, PANEL[1])
    width = panel[0] * columns
    margins = _Margins.of(labels, "" if look.is_for_page else sheet.caption, look=look, width=width)
    height = panel[1] * rows + margins.top + margins.bottom
    figure: Any = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    inside = (0.0, margins.bottom / height, 1.0, 1.0 - (margins.top + margins.bottom) / height)
    figure.get_layout_engine().set(w_pad=EDGE, h_pad=EDGE, rect=inside)
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[num_panels:]:
        unused.set_visible(False)
    if not look.is_for_page:
        _write(figure, printable(sheet.title), inches=height - EDGE, colour=look.text, size=12)
        _write(figure, margins.caption, inches=margins.bottom, colour=look.dim, size=7.5)
    if margins.legend_columns:
        _add_legend(figure, labels, look=look, columns=margins.legend_columns, top=1.0 - margins.title / height)
    return figure, axes[:num_panels]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Margins:
    """What stands above and below the panels, in inches."""

    title: float
    legend_columns: int  # 0: there is no legend
    legend: float
    caption: str  # broken into lines

    @property
    def top(self) -> float:
        return self.title + self.legend

    @property
    def bottom(self) -> float:
        return EDGE + CAPTION_HEIGHT * (self.caption.count("\n") + 1) if self.caption else 0.0

    @classmethod
    def of(cls, labels: Sequence[str], text: str, *, look: Look, width: float) -> _Margins:
        columns = (
            max(1, min(len(labels), int(width / (LETTER_WIDTH * max(map(len, labels)) + HANDLE_WIDTH))))
            if len(labels) > 1
            else 0
        )
        return cls(
            title=0.0 if look.is_for_page else TITLE_HEIGHT,
            legend_columns=columns,
            legend=EDGE + LEGEND_HEIGHT * -(-len(labels) // columns) if columns else 0.0,
            caption=textwrap.fill(printable(text), width=int(width * 17)),
        )


def _write(figure: Any, text: str, *, inches: float, colour: str, size: float) -> None:
    """Write text at the left, its top so far above the bottom."""
    place = inches / figure.get_figheight()
    written = figure.text(EDGE / figure.get_figwidth(), place, text, fontsize=size, color=colour, va="top")
    written.set_parse_math(False)
    written.set_in_layout(False)


def _add_legend(figure: Any, labels: Sequence[str], *, look: Look, columns: int, top: float) -> None:
    from matplotlib.lines import Line2D

    line: Any = Line2D  # it says that a style is one of certain words
    handles = [
        line([], [], color=look.colour(number), linestyle=look.style(number), linewidth=1.8)
        for number in range(len(labels))
    ]
    names = ["x"] * len(labels)
    legend = figure.legend(
        handles, names, loc="upper left", bbox_to_anchor=(0.0, top), ncols=columns, frameon=False, fontsize=8.5
    )
    legend.set_in_layout(False)
    for text, label in zip(legend.get_texts(), labels, strict=True):
        # Not in the call above: a label that begins with "_" would be left out, "$" begin a formula.
        text.set_parse_math(False)
        text.set_text(label)
        text.set_color(look.text)


def rendered(figure: Any, kind: Literal["png", "svg"], *, look: Look) -> bytes:
    """Return the figure as a file."""
    import matplotlib

    file = io.BytesIO()
    # Times and versions would make every file another one.
    metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
    # In a page text is text; a file looks the same wherever it is opened.
    settings: Any = {"svg.hashsalt": "selfplay", "svg.fonttype": "none" if look.is_for_page else "path"}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        # A label may hold letters that the font lacks: they show as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format=kind, dpi=DPI, metadata=metadata, transparent=look.is_for_page)
    # Its panels are in place now; finding the places is slow.
    figure.set_layout_engine("none")
    return file.getvalue()


def for_page(svg: str, *, name: str) -> str:
    """Return the element alone, with ids that begin with a name, colours and a width that the page sets."""
    element = svg[svg.index("<svg") :]
    for placeholder, colour in PAGE_COLOURS.items():
        element = element.replace(placeholder, colour)
    # Its rules would be those of the whole page.
    element = re.sub(r"<(metadata|style)\b.*?</\1>", "", element, flags=re.DOTALL)
    element = re.sub(r'\bid="', f'id="{name}-', element)
    element = re.sub(r'(href="|url\()#', rf"\1#{name}-", element)
    opening, rest = element.split(">", 1)
    return re.sub(r' (?:width|height)="[^"]*"', "", opening) + ">" + rest


def printable(text: str) -> str:
    """Return text that a font can show and XML can hold; line breaks stay."""
    return "".join(letter if letter.isprintable() or letter == "\n" else "\ufffd" for letter in text)
