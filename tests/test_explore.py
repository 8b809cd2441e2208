"""Sliders: the page that a reader opens, the widgets of a running notebook, and bad input."""

from __future__ import annotations

import gzip
import io
import itertools
import json
import re
import sys
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import hypothesis.strategies as st
import matplotlib as mpl
import numpy as np
import pytest
from hypothesis import given
from matplotlib.figure import Figure
from PIL import Image

from ssmlab import viz
from ssmlab.explore import Explorer, Frame, _pack, explore

plt = viz.plt
SANITIZE = Path(__file__).with_name("nbval_sanitize.cfg").read_text("utf8")


@pytest.fixture(autouse=True, scope="module")
def _style():
    with mpl.rc_context():
        viz.use_style()
        yield


@pytest.fixture(autouse=True)
def _no_figure_left_open():
    yield
    assert not plt.get_fignums()


def draw_modes(size: int, method: str) -> Figure:
    figure, ax = plt.subplots()
    ax.plot(np.arange(size))
    ax.set_title(method)
    return figure


def make(**changes) -> Explorer:
    arguments = {
        "alt": lambda size, method: f'{method} with {size} modes, "<" and "</script>"',
        "labels": {"size": "state size (modes)"},
        "start": {"method": "euler"},
        "size": range(2, 5),
        "method": ["zoh", "euler"],
    }
    return explore(draw_modes, **(arguments | changes))


@pytest.fixture(scope="module")
def modes() -> Explorer:
    return make()


class Page(HTMLParser):
    """Collects the elements of a fragment, each with its attributes and its text."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.text: dict[int, str] = {}
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), "an attribute stands twice"
        self.elements.append((tag, dict(attrs)))
        self.text[len(self.elements) - 1] = ""
        if tag not in ("input", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.elements:
            self.text[len(self.elements) - 1] += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]

    def texts(self, tag: str) -> list[str]:
        return [self.text[i].strip() for i, (name, _) in enumerate(self.elements) if name == tag]


def unpack(script: str) -> tuple[list[str], list[str]]:
    """Do what the script in the page does: SVG and text of each frame."""
    data = json.loads(script)
    svgs = ["".join(data["pieces"][i] for i in numbers) for numbers in data["frames"]]
    return svgs, data["alts"]


# The page


def test_text_form_is_stable(modes):
    assert repr(modes) == "explore(draw_modes: size x 3, method x 2; 6 frames)"


def test_every_slider_has_a_name_a_value_and_starts_where_it_should(modes):
    page = Page(modes.html())
    size, method = page.all("input")
    assert page.texts("label") == ["state size (modes)", "method"]
    assert page.texts("output") == ["2", "euler"]
    assert [label["for"] for label in page.all("label")] == [size["id"], method["id"]]
    assert [output["for"] for output in page.all("output")] == [size["id"], method["id"]]
    assert (size["type"], size["min"], size["max"], size["value"]) == ("range", "0", "2", "0")
    assert (method["max"], method["value"]) == ("1", "1")
    assert [size["aria-valuetext"], method["aria-valuetext"]] == ["2", "euler"]
    assert json.loads(size["data-texts"]) == ["2", "3", "4"]
    assert json.loads(method["data-texts"]) == ["zoh", "euler"]


def test_the_first_figure_needs_no_script(modes):
    page = Page(modes.html())
    (image,) = page.all("img")
    first = modes.frame()
    assert image["alt"] == first.alt == 'euler with 2 modes, "<" and "</script>"'
    assert unquote(image["src"]) == "data:image/svg+xml," + first.svg
    assert all("disabled" in slider for slider in page.all("input"))  # until there is a script


def test_the_sliders_reach_every_frame(modes):
    page = Page(modes.html())
    svgs, alts = unpack(page.texts("script")[0])
    counts = [int(slider["max"]) + 1 for slider in page.all("input")]
    for position in itertools.product(*map(range, counts)):
        number = 0
        for index, count in zip(position, counts, strict=True):  # as the script counts
            number = number * count + index
        params = {"size": [2, 3, 4][position[0]], "method": ["zoh", "euler"][position[1]]}
        frame = modes.frame(**params)
        assert frame.params == params
        assert (svgs[number], alts[number]) == (frame.svg, frame.alt)
        assert frame.alt.startswith(f"{params['method']} with {params['size']}")
        assert frame.svg == viz.render(draw_modes, params, viz.to_svg)
    assert len(set(svgs)) == 6


def test_the_page_needs_nothing_from_outside_and_runs_no_inline_handlers(modes):
    html = modes.html()
    page = Page(html)
    assert not page.open, "an element is not closed"
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        assert (attributes.get("src") or "data:").startswith("data:")
    urls = set(re.findall(r"https?://[^\"'\s)\\%]+", unquote(html)))
    assert urls == {"http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"}
    assert [s.get("class") for s in page.all("script")] == ["ssmlab-frames", None]
    assert html.count("</script>") == 2  # the one in the alternative text is escaped


def test_tools_can_empty_the_frames(modes):
    """What nbval compares holds the sliders, and nothing that depends on how a font is drawn."""
    rules = re.findall(r"^regex: (.*)$\n^replace: (.*)$", SANITIZE, flags=re.MULTILINE)
    emptied = modes.html()
    for pattern, replacement in rules:
        emptied = re.sub(pattern, replacement, emptied)
    assert '<script type="application/json" class="ssmlab-frames">[]</script>' in emptied
    assert "svg+xml" not in emptied.replace('"data:image/svg+xml," + encode', "")
    assert 'src=""' in emptied
    assert len(emptied) < 3500


def test_the_page_is_the_same_every_time(modes):
    assert modes.html() == make().html()


def test_different_sliders_have_different_names(monkeypatch):
    monkeypatch.setattr(viz, "render", lambda draw, params, encode: "<svg></svg>")
    same = {"alt": "the same text"}
    changes = ({}, same, same | {"labels": {}}, same | {"start": {}}, same | {"size": range(3, 6)})
    names = [
        slider["id"] for change in changes for slider in Page(make(**change).html()).all("input")
    ]
    assert len(set(names)) == len(names) == 10
    assert all(re.fullmatch(r"[a-z][\w-]*", name) for name in names)


@given(st.lists(st.lists(st.text(st.characters(exclude_characters="<")), min_size=1), min_size=1))
def test_packing_loses_nothing_and_cannot_end_the_script(pictures):
    frames = [Frame({}, "alt </script>", "".join("<" + p for p in ps)) for ps in pictures]
    packed = _pack(frames)
    assert "<" not in packed
    assert unpack(packed) == ([f.svg for f in frames], [f.alt for f in frames])


def test_frames_of_a_line_plot_weigh_little():
    """A frame more costs about half a kilobyte, so that sixty stay far below 100 kB."""

    def draw(decay):
        t = np.linspace(0, 20, 500)
        figure, ax = plt.subplots()
        ax.plot(t, np.exp(-decay * t) * np.sin(2 * t), label="position")
        ax.plot(t, np.exp(-decay * t), label="envelope")
        ax.set(xlabel="time (s)", ylabel="position (m)", ylim=(-1, 1))
        ax.legend()
        return figure

    def weight(count):
        html = explore(draw, alt="a decaying swing", decay=np.linspace(0.01, 1, count)).html()
        return len(gzip.compress(html.encode()))

    few, more = weight(2), weight(12)
    assert few < 12_000
    assert (more - few) / 10 < 1000


def test_a_picture_of_pixels_is_a_photo():
    def draw(gain):
        figure, ax = plt.subplots()
        ax.imshow(gain * np.eye(3))
        return figure

    (image,) = Page(explore(draw, alt="a diagonal", gain=[1, 2]).html()).all("img")
    assert image["class"] == "ssmlab-frame photo"
    assert "data:image/png;base64" in unquote(image["src"])


# Values


def test_numbers_arrive_as_plain_python_numbers():
    seen = []

    def draw(x):
        seen.append(x)
        return plt.figure()

    explorer = explore(draw, alt="nothing", x=np.array([0.5, 1.0]), start={"x": 1})
    assert seen == [0.5, 1.0]
    assert all(type(x) is float for x in seen)
    assert explorer.frame().params == {"x": 1.0}
    assert [f.params["x"] for f in explorer.frames] == [0.5, 1.0]


@given(st.floats(0.01, 100), st.integers(1, 60), st.data())
def test_a_value_is_found_by_how_it_reads(step, count, data):
    """0.3 finds 0.1 + 0.2, on any grid."""
    values = [step * k for k in range(count)]
    wanted = data.draw(st.sampled_from(values))
    written = float(f"{wanted:g}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(viz, "render", lambda draw, params, encode: "<svg></svg>")
        explorer = explore(lambda x: plt.figure(), alt="a", x=values, start={"x": written})
    assert explorer.frame().params["x"] == wanted
    assert explorer.frame(x=written) is explorer.frame()


def test_a_frame_off_the_grid_is_no_frame(modes):
    with pytest.raises(ValueError, match="size must be one of 2, 3, 4; got 7"):
        modes.frame(size=7)
    with pytest.raises(ValueError, match=r"params must name axes of \['size', 'method'\]; got"):
        modes.frame(colour="red")


# The widgets


class View:
    """The widgets behind what `_repr_mimebundle_` returns."""

    def __init__(self, explorer: Explorer) -> None:
        from ipywidgets import Widget
        from ipywidgets.widgets.widget import _instances

        bundle = explorer._repr_mimebundle_()
        assert list(bundle) == [
            "text/plain",
            "text/html",
            "application/vnd.jupyter.widget-view+json",
        ]
        box: Widget = _instances[bundle["application/vnd.jupyter.widget-view+json"]["model_id"]]
        *self.sliders, self.image = box.children


def test_widgets_show_what_the_page_shows(modes):
    view = View(modes)
    assert [slider.description for slider in view.sliders] == ["state size (modes)", "method"]
    assert [slider.value for slider in view.sliders] == [2, "euler"]
    assert [list(slider.options) for slider in view.sliders] == [
        [("2", 2), ("3", 3), ("4", 4)],
        [("zoh", "zoh"), ("euler", "euler")],
    ]
    assert picture(view) == viz.render(draw_modes, modes.frame().params, viz.to_png)
    view.sliders[0].value = 4
    assert picture(view) == viz.render(draw_modes, {"size": 4, "method": "euler"}, viz.to_png)
    assert Image.open(io.BytesIO(picture(view))).size == (1408, 792)
    (image,) = Page(view.image.value).all("img")
    assert image["width"] == "704"
    assert image["alt"] == modes.frame(size=4).alt == 'euler with 4 modes, "<" and "</script>"'


def picture(view: View) -> bytes:
    """What the live view shows."""
    (image,) = Page(view.image.value).all("img")
    return b64decode(image["src"].removeprefix("data:image/png;base64,"))


def test_a_mistake_is_not_swallowed_by_the_widgets():
    healthy = True

    def draw(x):
        figure, _ = plt.subplots()
        return figure if healthy else 1 / 0

    view = View(explore(draw, alt="nothing", x=[1, 2]))
    healthy = False
    with pytest.raises(ZeroDivisionError):
        view.sliders[0].value = 2


def test_without_ipywidgets_there_is_still_the_page(modes, monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    assert list(modes._repr_mimebundle_()) == ["text/plain", "text/html"]


# Bad input: one sentence, before anything is drawn


@pytest.mark.parametrize(
    ("changes", "error", "sentence"),
    [
        ({"size": []}, ValueError, "size must have at least one value; got none: give one"),
        ({"size": 3}, TypeError, r"size must be a sequence of values; got 3: write \[3\]"),
        ({"method": "zoh"}, TypeError, r"method must be a sequence .* write \['zoh'\]"),
        ({"method": ["zoh", "zoh"]}, ValueError, "method must have values that differ"),
        ({"size": [1.0, 1 + 1e-9]}, ValueError, "differ to six digits; got .'1', '1'"),
        ({"size": range(31)}, ValueError, "at most 60 frames; got 31 x 2 = 62: give fewer"),
        ({"start": {"size": 9}}, ValueError, "size must be one of 2, 3, 4; got 9: pick one"),
        ({"start": {"width": 9}}, ValueError, "start must name axes of .*; got 'width': rename"),
        (
            {"labels": {"width": "w"}},
            ValueError,
            "labels must name axes of .*; got 'width': rename",
        ),
        ({"alt": ""}, ValueError, "alt must say in words what the figure shows; got '': write"),
        ({"alt": " \n"}, ValueError, "alt must say in words what the figure shows"),
        ({"width": [1]}, TypeError, "draw must take the parameters .* unexpected .*'width'"),
    ],
)
def test_bad_input_is_named_before_anything_is_drawn(monkeypatch, changes, error, sentence):
    monkeypatch.setattr(viz, "render", lambda *arguments: pytest.fail("it drew"))
    with pytest.raises(error, match=sentence):
        make(**changes)


def test_other_bad_input():
    with pytest.raises(ValueError, match="explore needs an axis; got none: give one, such as"):
        explore(plt.figure, alt="nothing")
    with pytest.raises(TypeError, match=r"draw must take the parameters .*missing .*'method'"):
        explore(draw_modes, alt="nothing", size=[1])
    with pytest.raises(
        ValueError, match="alt must say in words what the figure shows; got '': write"
    ):
        make(alt=lambda size, method: "")


def test_a_draw_that_returns_no_figure_is_named():
    def draw(x):
        plt.subplots()

    with pytest.raises(TypeError, match="draw must return a matplotlib Figure; got NoneType"):
        explore(draw, alt="nothing", x=[1])


def test_sixty_frames_are_allowed_and_lie_in_order(monkeypatch):
    monkeypatch.setattr(viz, "render", lambda draw, params, encode: "<svg></svg>")
    explorer = explore(lambda a, b: plt.figure(), alt="a", a=range(15), b=range(4))
    assert [(f.params["a"], f.params["b"]) for f in explorer.frames] == list(
        itertools.product(range(15), range(4))
    )
