"""The figures: can they be read, by whom, on which ground; and do files hold what was drawn."""

from __future__ import annotations

import importlib.util
import io
import itertools
import re
import sys
import xml.etree.ElementTree as ET
from types import SimpleNamespace

import hypothesis.strategies as st
import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from matplotlib.figure import Figure
from PIL import Image

from ssmlab import viz

plt = viz.plt


@pytest.fixture(autouse=True)
def _style():
    with mpl.rc_context():
        viz.use_style()
        yield
        assert not plt.get_fignums(), "a figure was left open"


@pytest.fixture
def ax():
    figure, ax = plt.subplots()
    yield ax
    plt.close(figure)


# Colours, as numbers in [0, 1]. WHITE is the page in light mode, DARK the theme's page in dark mode
# and SOFT another common dark ground.

WHITE, DARK, SOFT = np.ones(3), np.full(3, 0x12 / 255), np.array([0x14, 0x18, 0x1E]) / 255
HUE_ROTATE_180 = np.array(  # W3C Filter Effects: luminance weights, cos = -1, sin = 0
    [[-0.574, 1.43, 0.144], [0.426, 0.43, 0.144], [0.426, 1.43, -0.856]]
)
SIGHT = {  # Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB
    "full": np.eye(3),
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
}
XYZ = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])


def linear(rgb):
    return np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)


def lab(light):
    """CIE Lab of linear RGB."""
    ratio = XYZ @ light / XYZ.sum(axis=1)
    x, y, z = np.where(ratio > 0.008856, np.cbrt(ratio), 7.787 * ratio + 16 / 116)
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(a, b):
    """WCAG's ratio."""
    low, high = sorted(float(linear(c) @ XYZ[1]) for c in (a, b))
    return (high + 0.05) / (low + 0.05)


def shown(colour, ground):
    """What the style sheet makes of a colour: as it is on white; inverted, turned, blended."""
    rgb = np.array(mpl.colors.to_rgb(colour))
    if ground is WHITE:
        return rgb
    turned = np.clip(HUE_ROTATE_180 @ (1 - rgb), 0, 1)
    return 1 - (1 - turned) * (1 - ground)


@pytest.mark.parametrize("ground", [WHITE, DARK, SOFT], ids=["light", "dark", "soft"])
@pytest.mark.parametrize("colour", [*viz.PALETTE, viz.INK])
def test_every_colour_can_be_read_as_text(colour, ground):
    assert contrast(shown(colour, ground), ground) >= 4.5


@pytest.mark.parametrize("ground", [WHITE, DARK, SOFT], ids=["light", "dark", "soft"])
@pytest.mark.parametrize("sight", SIGHT)
def test_any_two_colours_can_be_told_apart(sight, ground):
    seen = [np.clip(SIGHT[sight] @ linear(shown(c, ground)), 0, 1) for c in viz.PALETTE]
    distances = [np.linalg.norm(lab(a) - lab(b)) for a, b in itertools.combinations(seen, 2)]
    assert min(distances) > 14  # 2.3 is what can just be noticed


def test_the_dark_page_shines_through_the_white_of_a_figure():
    np.testing.assert_allclose(shown("white", DARK), DARK, atol=1e-12)


@pytest.mark.parametrize("name", ["BLUE", "VERMILION", "GREEN", "PURPLE"])
def test_a_colour_keeps_its_hue_in_the_dark(name):
    light, dark = (lab(linear(shown(getattr(viz, name), g)))[1:] for g in (WHITE, DARK))
    assert abs(np.angle(complex(*light) / complex(*dark))) < np.radians(30)


def test_text_on_the_shade_can_be_read():
    for ground in (WHITE, DARK):
        assert contrast(shown(viz.INK, ground), shown(viz.SHADE, ground)) >= 4.5


def test_each_series_has_a_dash_of_its_own(ax):
    lines = [ax.plot([0, 1], [0, k])[0] for k in range(5)]
    assert [line.get_color() for line in lines] == list(viz.PALETTE)
    assert len({str(line._dash_pattern) for line in lines}) == 5


# Style


def test_style_is_that_of_the_book():
    figure, ax = plt.subplots()
    assert tuple(figure.get_size_inches()) == (6.4, 3.6)
    assert mpl.colors.to_rgba(figure.get_facecolor()) == (1, 1, 1, 1)
    assert not ax.spines["top"].get_visible()
    assert ax.xaxis.label.get_fontsize() >= 10
    plt.close(figure)


def test_a_notebook_gets_our_pictures(monkeypatch):
    from IPython.core.formatters import PNGFormatter

    formatter = PNGFormatter()
    shell = SimpleNamespace(display_formatter=SimpleNamespace(formatters={"image/png": formatter}))
    monkeypatch.setattr("IPython.get_ipython", lambda: shell)
    monkeypatch.setattr(plt, "switch_backend", lambda backend: None)
    viz.use_style()
    figure, _ = plt.subplots()
    data, metadata = formatter(figure)
    assert data.startswith("iVBORw0KGgo")
    assert metadata == {"width": 704, "height": 396}
    plt.close(figure)


def test_style_works_without_ipython(monkeypatch):
    monkeypatch.setitem(sys.modules, "IPython", None)
    plt.rcParams["lines.linewidth"] = 9
    viz.use_style()
    assert plt.rcParams["lines.linewidth"] == 1.8


def test_a_kernel_shows_sharp_pictures_from_the_first_figure_on(monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")
    source = "from ssmlab import viz\nviz.use_style()\nviz.plt.subplots();"
    cells = [nbformat.v4.new_code_cell(source)]
    nb = nbformat.v4.new_notebook(cells=cells)
    NotebookClient(nb, kernel_name="python3", extra_arguments=["--log-level=40"]).execute()
    (output,) = nb.cells[0].outputs
    assert output.metadata["image/png"] == {"width": 704, "height": 396}


def test_without_matplotlib_one_sentence_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    spec = importlib.util.spec_from_file_location("ssmlab_viz_again", viz.__file__)
    with pytest.raises(ModuleNotFoundError, match="need matplotlib; install it with: pip install"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


# Files


def draw_line(slope: float = 1.0) -> Figure:
    figure, ax = plt.subplots()
    t = np.linspace(0, 1, 100)
    ax.plot(t, np.sin(9 * slope * t), label="a <line>")
    ax.fill_between(t, t, -t)
    ax.legend()
    return figure


def draw_map() -> Figure:
    figure, ax = plt.subplots()
    viz.matrix(ax, np.arange(9).reshape(3, 3))
    return figure


@pytest.mark.parametrize(("draw", "mode"), [(draw_line, "P"), (draw_map, "RGB")])
def test_png_is_twice_as_large_as_shown(draw, mode):
    png = viz.render(draw, {}, viz.to_png)
    image = Image.open(io.BytesIO(png))
    assert image.size == (1408, 792)
    assert image.mode == mode
    assert image.convert("RGB").getpixel((3, 3)) == (255, 255, 255)
    assert len(png) < 60_000


def test_few_colours_look_like_all_colours():
    figure = draw_line()
    ours = np.asarray(Image.open(io.BytesIO(viz.to_png(figure))).convert("RGB"), dtype=float)
    full = io.BytesIO()
    figure.savefig(full, dpi=220)
    theirs = np.asarray(Image.open(full).convert("RGB"), dtype=float)
    assert np.abs(ours - theirs).mean() < 0.1
    plt.close(figure)


def test_svg_is_the_same_every_time_and_says_nothing_else():
    svg = viz.render(draw_line, {}, viz.to_svg)
    assert svg == viz.render(draw_line, {}, viz.to_svg)
    assert svg != viz.render(draw_line, {"slope": 2.0}, viz.to_svg)
    root = ET.fromstring(svg)
    assert (root.get("width"), root.get("height")) == ("704", "396")
    assert root.get("viewBox") == "0 0 460.8 259.2"
    assert not re.search(r"<!|metadata|date|creator|<text", svg)


number = st.floats(-999, 999).map(lambda value: round(value, 6))


@given(st.lists(st.tuples(number, number), min_size=1, max_size=40))
def test_a_shortened_path_runs_where_the_path_ran(points):
    path = " \n".join(f"{'L' if i else 'M'} {x:f} {y:f}" for i, (x, y) in enumerate(points))
    short = viz._shorten(re.match(".*", path, flags=re.S))
    steps = re.findall(r"([Ml])(\S+) (\S+?)(?=[Ml]|$)", short)
    assert [command for command, _, _ in steps] == ["M"] + ["l"] * (len(points) - 1)
    ran = np.cumsum([[float(x), float(y)] for _, x, y in steps], axis=0)
    np.testing.assert_allclose(ran, points, atol=0.0501, rtol=0)


@pytest.mark.parametrize(
    ("path", "short"),
    [
        ("M 0 0 \nL 10 0 \nL 10 10 \nz\nL 5 5", "M0 0l10 0l0 10zl5 5"),  # z goes back to the M
        ("M 1 1 \nC 2 2 3 3 4.04 4.06 \nL 5 5 ", "M1 1C2 2 3 3 4 4.1l1 0.9"),
        ("M 3 3 \nQ 1 1 2 2 \nM 0 7 \nL 0 8", "M3 3Q1 1 2 2M0 7l0 1"),
    ],
)
def test_shortened_paths_by_hand(path, short):
    assert viz._shorten(re.match(".*", path, flags=re.S)) == short


def test_every_path_of_a_figure_is_shortened_within_a_tenth():
    """Walk the paths of matplotlib's own SVG beside ours."""

    def ends(svg: str) -> list[np.ndarray]:
        found = []
        for path in re.findall(r' d="([^"]*)"', svg):
            here = np.zeros(2)
            for command, numbers in re.findall(r"([MLQClz])([^MLQClz]*)", path):
                if command == "z":
                    continue
                last = np.array([float(n) for n in numbers.split()[-2:]])
                here = here + last if command == "l" else last
                found.append(here)
        return found

    figure = draw_line()
    raw = io.StringIO()
    with mpl.rc_context({"svg.hashsalt": "ssmlab"}):
        figure.savefig(raw, format="svg")
    theirs, ours = ends(raw.getvalue()), ends(viz.to_svg(figure))
    assert len(theirs) == len(ours) > 300
    np.testing.assert_allclose(ours, theirs, atol=0.0501, rtol=0)
    plt.close(figure)


def test_render_closes_what_it_opened_and_nothing_else():
    mine, _ = plt.subplots()

    def broken():
        plt.subplots()
        return 1 / 0

    def wrong():
        return plt.subplots()[1]

    assert viz.render(plt.figure, {"num": "new"}, lambda figure: figure.get_label()) == "new"
    with pytest.raises(ZeroDivisionError):
        viz.render(broken, {}, viz.to_svg)
    with pytest.raises(TypeError, match="draw must return a matplotlib Figure; got Axes: end it"):
        viz.render(wrong, {}, viz.to_svg)
    assert plt.get_fignums() == [mine.number]
    plt.close(mine)


# Pictures


def test_a_line_is_named_in_its_colour(ax):
    (line,) = ax.plot([0, 1, 4], [0, 2, 8], label="cost")
    at_end, inside = viz.label_line(line), viz.label_line(line, "here", at=2.5)
    assert (at_end.get_text(), *at_end.xy) == ("cost", 4, 8)
    assert (inside.get_text(), *inside.xy) == ("here", 2.5, 5)
    assert at_end.get_color() == inside.get_color() == line.get_color()


def test_a_note_points_at_what_it_speaks_of(ax):
    annotation = viz.note(ax, "peak", at=(1, 2), to=(3, 4))
    assert annotation.xy == (1, 2)
    assert annotation.get_position() == (3, 4)
    assert annotation.arrow_patch is not None


def test_stems_stand_at_the_samples(ax):
    viz.stem(ax, [1.0, -2.0, 3.0], color=viz.GREEN, label="y")
    (container,) = ax.containers
    np.testing.assert_array_equal(container.markerline.get_data(), [[0, 1, 2], [1, -2, 3]])
    assert container.markerline.get_color() == viz.GREEN
    assert container.get_label() == "y"


def test_zero_is_grey_in_a_signed_map_and_the_range_is_even(ax):
    image = viz.matrix(ax, [[-1.0, 0.0], [0.5, 3.0]], label="entry")
    assert image.get_clim() == (-3, 3)
    assert np.ptp(image.cmap(image.norm(0.0))[:3]) < 0.01
    assert mpl.colors.to_hex(image.cmap(image.norm(3.0))) == viz.VERMILION.lower()
    assert mpl.colors.to_hex(image.cmap(image.norm(-3.0))) == viz.BLUE.lower()
    assert image.colorbar.ax.get_ylabel() == "entry"


def test_a_map_without_negative_entries_starts_at_zero(ax):
    image = viz.matrix(ax, [[1, 2], [3, 4]], colorbar=False)
    assert image.get_clim() == (0, 4)
    assert image.cmap.name == "cividis"
    assert image.colorbar is None
    assert image.origin == "upper"


def test_a_map_of_nothing_but_zeros_can_be_drawn(ax):
    assert viz.matrix(ax, np.zeros((2, 2))).get_clim() == (0, 1)


@pytest.mark.parametrize(
    "M", [np.ones(3), 2.0, np.ones((2, 2)) * 1j, np.zeros((0, 3)), [[np.nan, 1]], [[1, np.inf]]]
)
def test_what_is_no_real_matrix_is_refused(ax, M):
    with pytest.raises(ValueError, match=r"M must be a real finite matrix \(rows, columns\); got"):
        viz.matrix(ax, M)


@given(st.complex_numbers(max_magnitude=50, allow_nan=False), st.booleans())
def test_exactly_the_stable_poles_lie_in_the_shade(pole, discrete):
    figure, ax = plt.subplots()
    viz.complex_plane(ax, [pole], discrete=discrete)
    (shade,) = ax.patches
    distance = 1 - abs(pole) if discrete else -pole.real
    if abs(distance) > 1e-6:
        at = shade.get_patch_transform().inverted().transform((pole.real, pole.imag))
        assert shade.get_path().contains_point(at) == (distance > 0)
    (low, high), (bottom, top) = ax.get_xlim(), ax.get_ylim()
    assert low < pole.real < high
    assert bottom < pole.imag < top
    plt.close(figure)


def test_poles_are_crosses(ax):
    viz.complex_plane(ax, [[-1 + 2j, -1 - 2j]])
    crosses = ax.lines[-1]
    assert crosses.get_marker() == "x"
    np.testing.assert_array_equal(crosses.get_data(), [[-1, -1], [2, -2]])


def test_an_empty_complex_plane_shows_the_unit_circle(ax):
    viz.complex_plane(ax, discrete=True)
    assert ax.get_xlim() == (-1.3, 1.3)


@pytest.mark.parametrize(
    ("discrete", "words"),
    [
        (False, ["$x(t)$", "$B$", "$h'(t)$", r"$\int$", "$A$", "$h(t)$", "$C$", "$D$", "$y(t)$"]),
        (True, ["$x_k$", r"$\bar B$", "delay", r"$\bar A$", "$h_k$", "$C$", "$D$", "$y_k$"]),
    ],
)
def test_a_block_diagram_has_a_block_for_each_matrix(discrete, words):
    figure = viz.block_diagram(discrete=discrete)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert sorted(texts) == sorted([*words, "+", "+", *[""] * texts.count("")])
    plt.close(figure)
