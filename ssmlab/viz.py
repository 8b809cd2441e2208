"""The figures of the book: one style, one palette, and the pictures that several chapters draw.

A figure is drawn once, dark on opaque white. In the book's dark mode the style sheet turns light
into dark (``filter: invert(1) hue-rotate(180deg)``). The colours were chosen to be told apart, and
to be read as text (contrast of at least 4.5), on white and after that turn, by readers with and
without full colour vision. Each series also has a dash of its own: colour is never the only cue.
"""

from __future__ import annotations

import io
import re
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

import numpy as np

try:
    import matplotlib as mpl
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "the figures and sliders of ssmlab need matplotlib; install it with: pip install matplotlib"
    ) from error
import matplotlib.pyplot as plt
from cycler import cycler
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure as Figure
from matplotlib.image import AxesImage
from matplotlib.lines import Line2D
from matplotlib.patches import Circle, Rectangle
from matplotlib.text import Annotation
from PIL import Image

from ssmlab._typing import ArrayLike

Draw = Callable[..., Figure]
Encoded = TypeVar("Encoded")
Canvas = TypeVar("Canvas", FigureCanvasAgg, FigureCanvasSVG)

PALETTE = BLUE, VERMILION, GREEN, PURPLE, GREY = (
    "#3067B1",
    "#C4510A",
    "#3F8459",
    "#9D6093",
    "#4B4B4B",
)
DASHES = ("-", (0, (5, 1.5)), (0, (1.5, 1.2)), (0, (6, 1.5, 1.5, 1.5)), (0, (9, 3)))
INK = "#222222"
SHADE = "#E3ECF6"
SIGNED = LinearSegmentedColormap.from_list("ssmlab_signed", [BLUE, "#ECECEC", VERMILION])

STYLE: Any = {
    "figure.figsize": (6.4, 3.6),
    "figure.dpi": 110,
    "figure.facecolor": "white",
    "figure.constrained_layout.use": True,
    "savefig.facecolor": "white",
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": cycler(color=PALETTE) + cycler(linestyle=DASHES),
    "lines.linewidth": 1.8,
    "legend.frameon": False,
    "image.cmap": "cividis",
}


def use_style() -> None:
    """Set the style of the book; a notebook then shows its figures sharp, whole and light.

    Examples
    --------
    >>> use_style()
    >>> plt.rcParams["lines.linewidth"]
    1.8
    """
    plt.rcParams.update(STYLE)
    try:
        from IPython import get_ipython
    except ModuleNotFoundError:
        return
    if shell := get_ipython():
        plt.switch_backend(mpl.get_backend())  # else loaded by the first figure, over what follows
        shell.display_formatter.formatters["image/png"].for_type(Figure, _inline_png)


def _inline_png(figure: Figure) -> tuple[str, dict[str, int]]:
    width, height = size_shown(figure)
    return b64encode(to_png(figure)).decode(), {"width": width, "height": height}


def size_shown(figure: Figure) -> tuple[int, int]:
    """Width and height of a figure where it is shown, in the pixels of a page."""
    width, height = figure.get_size_inches() * figure.dpi
    return round(width), round(height)


def to_png(figure: Figure) -> bytes:
    """Encode a figure as PNG, with twice as many pixels as it is shown with.

    A plot has few colours: a palette of 256 makes it about a third as heavy and looks the same. A
    figure that maps values to colours, or shows a photograph, keeps all of its colours.
    """
    with _canvas(figure, FigureCanvasAgg) as canvas:
        figure.dpi *= 2
        canvas.draw()
        picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB")
    if not figure.findobj(_maps_colours):
        picture = picture.quantize(256)
    png = io.BytesIO()
    picture.save(png, format="png", optimize=True)
    return png.getvalue()


def _maps_colours(artist: Artist) -> bool:
    return isinstance(artist, ScalarMappable) and artist.get_array() is not None


def to_svg(figure: Figure) -> str:
    """Encode a figure as SVG that depends only on what is drawn: no date, comments or metadata.

    Letters are paths, so that a page looks the same without the font. Coordinates are rounded to a
    tenth of a point, about a seventh of a pixel.
    """
    text = io.StringIO()
    size = 'width="{}" height="{}"'.format(*size_shown(figure))
    look = mpl.rc_context({"svg.hashsalt": "ssmlab", "svg.fonttype": "path"})
    with look, _canvas(figure, FigureCanvasSVG) as canvas:
        canvas.print_svg(text, metadata={"Date": None})
    svg = text.getvalue()
    svg = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.S)
    svg = re.sub(r'width="[\d.]+pt" height="[\d.]+pt"', size, svg, count=1)
    svg = re.sub(r'(?<= d=")[^"]*', _shorten, svg)
    return re.sub(r"\s+", " ", svg).replace("> <", "><").strip()


@contextmanager
def _canvas(figure: Figure, kind: type[Canvas]) -> Iterator[Canvas]:
    """Give a figure another canvas for a while; what its ``savefig`` does, but that draws twice."""
    canvas, dpi = figure.canvas, figure.dpi
    try:
        yield kind(figure)
    finally:
        figure.dpi = dpi
        figure.set_canvas(canvas)


def _shorten(path: re.Match[str]) -> str:
    """Round a path to tenths, and count each straight stroke from where the one before ended."""
    here = start = [0, 0]
    parts = []
    for command, numbers in re.findall(r"([MLQCz])([^MLQCz]*)", path[0]):
        tenths = [round(10 * float(number)) for number in numbers.split()]
        if command == "L":
            parts.append(f"l{(tenths[0] - here[0]) / 10:g} {(tenths[1] - here[1]) / 10:g}")
        else:
            parts.append(command + " ".join(f"{n / 10:g}" for n in tenths))
        here = tenths[-2:] or start
        start = here if command == "M" else start
    return "".join(parts)


def render(draw: Draw, params: Mapping[str, Any], encode: Callable[[Figure], Encoded]) -> Encoded:
    """Draw one figure, encode it (``to_svg``, ``to_png``), and close all that was opened for it."""
    open_before = plt.get_fignums()
    try:
        figure = draw(**params)
        if not isinstance(figure, Figure):
            raise TypeError(
                f"draw must return a matplotlib Figure; got {type(figure).__name__}: "
                "end it with return figure"
            )
        return encode(figure)
    finally:
        for number in set(plt.get_fignums()).difference(open_before):
            plt.close(number)


def label_line(line: Line2D, text: str | None = None, *, at: float | None = None) -> Annotation:
    """Write a line's name in its colour: beside its last point, or above it at the abscissa ``at``.

    ``text`` defaults to the line's label. A name beside the line is read sooner than a legend.

    Examples
    --------
    >>> figure, ax = plt.subplots()
    >>> (line,) = ax.plot([0, 1, 2], [0, 1, 4], label="square")
    >>> label_line(line).get_text()
    'square'
    >>> tuple(label_line(line, "between", at=1.5).xy)
    (1.5, 2.5)
    >>> plt.close(figure)
    """
    ax: Any = line.axes
    x, y = (np.asarray(data, dtype=float) for data in line.get_data())
    end = at is None
    label: Annotation = ax.annotate(
        str(line.get_label()) if text is None else text,
        (x[-1], y[-1]) if at is None else (at, float(np.interp(at, x, y))),
        (5, 0) if end else (0, 4),
        textcoords="offset points",
        color=line.get_color(),
        horizontalalignment="left" if end else "center",
        verticalalignment="center" if end else "bottom",
        annotation_clip=False,
    )
    return label


def note(ax: Axes, text: str, at: tuple[float, float], to: tuple[float, float]) -> Annotation:
    """Write ``text`` at the point ``to``, with an arrow to the point ``at`` that it speaks of."""
    return ax.annotate(text, at, to, arrowprops={"arrowstyle": "->", "color": INK})


def stem(ax: Axes, y: ArrayLike, *, color: str = BLUE, label: str = "") -> None:
    """Draw a sequence y[0], y[1], ... as dots on stems: numbers with nothing in between."""
    dots, stems, baseline = ax.stem(np.asarray(y), label=label)
    plt.setp(dots, color=color, markersize=4)
    plt.setp(stems, color=color, linewidth=1.2, linestyle="-")
    plt.setp(baseline, color=INK, linewidth=0.8, linestyle="-")


def matrix(ax: Axes, M: ArrayLike, *, label: str = "", colorbar: bool = True) -> AxesImage:
    """Draw a real matrix (rows, columns) as a map with M[0, 0] at the top left.

    With a negative entry the map goes from blue through grey, which is zero, to vermilion; without
    one it is cividis from zero up. ``label`` names the colour bar.
    """
    M = np.asarray(M)
    if M.ndim != 2 or M.size == 0 or np.iscomplexobj(M) or not np.isfinite(M).all():
        finite = "" if np.isfinite(M).all() else " with entries that are not finite"
        raise ValueError(
            f"M must be a real finite matrix (rows, columns); got {M.dtype} of shape {M.shape}"
            f"{finite}: draw a complex one as two, its real and its imaginary part"
        )
    top = float(np.abs(M).max()) or 1.0
    signed = bool((M < 0).any())
    image = ax.imshow(
        M,
        cmap=SIGNED if signed else "cividis",
        vmin=-top if signed else 0.0,
        vmax=top,
        interpolation="nearest",
    )
    ax.spines[:].set_visible(False)
    figure: Any = ax.get_figure(root=True)
    figure.set_layout_engine("compressed")  # the colour bar as high as the map
    if colorbar:
        figure.colorbar(image, ax=ax, label=label)
    return image


def complex_plane(ax: Axes, poles: ArrayLike = (), *, discrete: bool = False) -> None:
    """Draw the complex plane with its stable part shaded, and ``poles`` as crosses.

    Stable is ``Re s < 0`` for h' = A h + B x, and ``|z| < 1`` for h_k = A_bar h_{k-1} + B_bar x_k
    (``discrete=True``).
    """
    poles = np.ravel(np.asarray(poles, dtype=complex))
    reach = 1.3 * float(np.abs([poles.real, poles.imag]).max(initial=1.0))
    far = 100 * reach
    stable = Circle((0, 0), 1) if discrete else Rectangle((-far, -far), far, 2 * far)
    stable.set(facecolor=SHADE, edgecolor=GREY, linewidth=1, zorder=0)
    ax.add_patch(stable)
    for axis_line in (ax.axhline, ax.axvline):
        axis_line(0, color=GREY, linewidth=0.8, linestyle="-", zorder=1)
    ax.plot(poles.real, poles.imag, "x", color=VERMILION, markersize=8, markeredgewidth=2)
    ax.set(xlabel="real part", ylabel="imaginary part", aspect="equal")
    ax.set(xlim=(-reach, reach), ylim=(-reach, reach))


def block_diagram(*, discrete: bool = False) -> Figure:
    """Draw the two equations as a circuit: h' = A h + B x and y = C h + D x.

    With ``discrete=True`` the first is h_k = A_bar h_{k-1} + B_bar x_k.

    Examples
    --------
    >>> plt.close(block_diagram(discrete=True))
    """
    bar, k = (r"\bar ", "_k") if discrete else ("", "(t)")
    figure, ax = plt.subplots(figsize=(6.4, 2.9))
    ax.set(xlim=(-0.7, 12.7), ylim=(0.2, 5.6))
    ax.set_axis_off()

    def node(x: float, y: float, text: str, shape: str = "square") -> None:
        box = {"boxstyle": f"{shape},pad=0.5", "facecolor": SHADE, "edgecolor": INK}
        ax.text(x, y, text, size=12, ha="center", va="center", bbox=box, zorder=3)

    def wire(*points: tuple[float, float]) -> None:
        ax.plot(*zip(*points, strict=True), color=INK, linewidth=1.2, linestyle="-")
        arrow = {"arrowstyle": "-|>", "color": INK, "shrinkA": 0, "shrinkB": 0}
        ax.annotate("", points[-1], points[-2], arrowprops=arrow)

    wire((0, 3), (1.57, 3))
    wire((1.9, 3), (3.35, 3))
    wire((3.7, 3), (8.47, 3))
    wire((8.8, 3), (9.95, 3))
    wire((10.3, 3), (11.8, 3))
    wire((0.7, 3), (0.7, 4.9), (10.3, 4.9), (10.3, 3.32))
    wire((7, 3), (7, 1), (3.7, 1), (3.7, 2.68))
    node(1.9, 3, f"${bar}B$")
    node(3.7, 3, "+", "circle")
    node(8.8, 3, "$C$")
    node(10.3, 3, "+", "circle")
    node(5.5, 4.9, "$D$")
    if discrete:
        node(4.6, 1, r"$\bar A$")
        node(6, 1, "delay")
    else:
        wire((4.2, 3), (5.17, 3))
        node(5.5, 3, r"$\int$")
        node(5.5, 1, "$A$")
        ax.text(4.5, 3.2, "$h'(t)$", ha="center", va="bottom")
    ax.text(7, 3.2, f"$h{k}$", ha="center", va="bottom")
    ax.text(-0.1, 3, f"$x{k}$", ha="right", va="center")
    ax.text(11.9, 3, f"$y{k}$", ha="left", va="center")
    return figure
