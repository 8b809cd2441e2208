"""Sliders that work in a running notebook, and in a page with no kernel behind it.

``explore`` draws a figure at every point of a small grid. In a built page the reader moves plain
HTML sliders through these frames; in JupyterLab the same call gives widgets that draw afresh. Both
draw with one pure function, ``draw(**params) -> Figure``.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from html import escape
from inspect import signature
from itertools import product
from typing import Any, NamedTuple
from urllib.parse import quote

from ssmlab import viz

MOST_FRAMES = 60

SCRIPT = """
(() => {
  const root = document.currentScript.closest(".ssmlab-explore");
  const { pieces, frames, alts } = JSON.parse(root.querySelector(".ssmlab-frames").textContent);
  if (!frames) return;
  const sliders = [...root.querySelectorAll("input")];
  const image = root.querySelector("img");
  const show = () => {
    let frame = 0;
    for (const slider of sliders) {
      const text = JSON.parse(slider.dataset.texts)[slider.value];
      slider.setAttribute("aria-valuetext", text);
      slider.nextElementSibling.value = text;
      frame = frame * (Number(slider.max) + 1) + Number(slider.value);
    }
    const svg = frames[frame].map((piece) => pieces[piece]).join("");
    image.src = "data:image/svg+xml," + encodeURIComponent(svg);
    image.alt = alts[frame];
  };
  for (const slider of sliders) {
    slider.disabled = false;
    slider.addEventListener("input", show);
    // A finger that only scrolls the page past the slider does not move it.
    let before;
    slider.addEventListener("pointerdown", () => (before = slider.value));
    slider.addEventListener("pointercancel", () => {
      slider.value = before;
      show();
    });
  }
})();
"""


class Axis(NamedTuple):
    """One slider: its parameter, the words beside it, its values, how they read, the first one."""

    name: str
    label: str
    values: list[Any]
    texts: list[str]
    start: int


class Frame(NamedTuple):
    """One point of the grid: the parameters, the figure in words, the figure as SVG."""

    params: dict[str, Any]
    alt: str
    svg: str


def explore(
    draw: viz.Draw,
    *,
    alt: str | Callable[..., str],
    labels: Mapping[str, str] | None = None,
    start: Mapping[str, Any] | None = None,
    **axes: Any,
) -> Explorer:
    """Let the reader move the parameters of a figure over a grid of at most 60 points.

    All frames are drawn at once, so that a mistake in ``draw`` stops the cell that makes it.

    Parameters
    ----------
    draw : callable
        A pure function of the axes that returns a matplotlib Figure.
    alt : str or callable
        What is seen, in words, for readers who do not see it; or a function of the axes for it.
    labels : mapping, optional
        name -> the words beside the slider, with the unit. Default: the name of the axis.
    start : mapping, optional
        name -> the value that is shown first. Default: the first value of the axis.
    **axes : sequence
        name -> its values, numbers or words, in the order in which the slider passes them. No two
        values read the same.

    Returns
    -------
    Explorer

    Examples
    --------
    >>> def draw_decay(rate):
    ...     figure, ax = viz.plt.subplots()
    ...     ax.plot([0, 1, 2], [1, rate, rate**2])
    ...     return figure
    >>> explore(draw_decay, alt="a decaying line", rate=[0.2, 0.5, 0.9])
    explore(draw_decay: rate x 3; 3 frames)
    """
    labels, start = labels or {}, start or {}
    for argument, names in (("labels", labels), ("start", start)):
        for name in names:
            if name not in axes:
                raise ValueError(
                    f"{argument} must name axes of {list(axes)}; got {name!r}: rename it or drop it"
                )
    sliders = [_axis(name, labels.get(name, name), axes[name], start) for name in axes]
    sizes = [len(axis.values) for axis in sliders]
    if not sizes:
        raise ValueError("explore needs an axis; got none: give one, such as damping=[0, 0.5, 1]")
    if math.prod(sizes) > MOST_FRAMES:
        raise ValueError(
            f"the axes must make at most {MOST_FRAMES} frames; "
            f"got {' x '.join(map(str, sizes))} = {math.prod(sizes)}: give fewer values"
        )
    if not callable(alt):
        _describe(alt, {})
    try:
        signature(draw).bind(**axes)
    except TypeError as error:
        raise TypeError(f"draw must take the parameters {list(axes)}: {error}") from None
    return Explorer(draw, alt, sliders)


class Explorer:
    """What ``explore`` returns: it shows itself as text, as a fragment of a page and as widgets.

    ``frames`` holds all frames, the last axis moving fastest; ``frame(damping=0.5)`` finds one.
    """

    def __init__(self, draw: viz.Draw, alt: str | Callable[..., str], axes: list[Axis]) -> None:
        self.draw = draw
        self.axes = axes
        names = [axis.name for axis in axes]
        grid = product(*(axis.values for axis in axes))
        points = [dict(zip(names, values, strict=True)) for values in grid]
        self.frames = [Frame(p, _describe(alt, p), viz.render(draw, p, viz.to_svg)) for p in points]

    def frame(self, **params: Any) -> Frame:
        """Find the frame at ``params``; an axis that is left out stands at its start."""
        number = 0
        for axis in self.axes:
            value = params.pop(axis.name, axis.values[axis.start])
            number = number * len(axis.values) + _index(axis.name, axis.texts, value)
        if params:
            raise ValueError(
                f"params must name axes of {[a.name for a in self.axes]}; got {params}: "
                "rename or drop what is no axis"
            )
        return self.frames[number]

    def __repr__(self) -> str:
        name = getattr(self.draw, "__name__", type(self.draw).__name__)
        axes = ", ".join(f"{axis.name} x {len(axis.values)}" for axis in self.axes)
        return f"explore({name}: {axes}; {len(self.frames)} frames)"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, Any]:
        return {"text/plain": repr(self), "text/html": self.html()} | self._widgets()

    def html(self) -> str:
        """Write the fragment of a page: the sliders, the first figure, all frames in a script."""
        first = self.frame()
        # From what the cell says and not from what it draws: the same on every machine.
        content = json.dumps(
            [repr(self), first.alt, [(a.label, a.texts, a.start) for a in self.axes]]
        )
        identity = f"explore-{hashlib.sha256(content.encode()).hexdigest()[:8]}"
        sliders = "".join(_slider(axis, f"{identity}-{axis.name}") for axis in self.axes)
        look = "ssmlab-frame photo" if "<image" in first.svg else "ssmlab-frame"
        return f"""<div class="ssmlab-explore">
<div class="ssmlab-controls">
{sliders}</div>
<div class="ssmlab-figure">
<img class="{look}" alt="{escape(first.alt)}" src="data:image/svg+xml,{quote(first.svg)}">
</div>
<script type="application/json" class="ssmlab-frames">{_pack(self.frames)}</script>
<script>{SCRIPT}</script>
</div>"""

    def _widgets(self) -> dict[str, Any]:
        """Build the live view, if ipywidgets is there; without its Output, which hides mistakes."""
        try:
            from ipywidgets import HTML, SelectionSlider, VBox
        except ModuleNotFoundError:
            return {}
        sliders = {
            axis.name: SelectionSlider(
                options=list(zip(axis.texts, axis.values, strict=True)),
                index=axis.start,
                description=axis.label,
                style={"description_width": "initial"},
                layout={"width": "40em", "max_width": "100%"},
            )
            for axis in self.axes
        }
        image = HTML()

        def redraw(change: object = None) -> None:
            at = {name: slider.value for name, slider in sliders.items()}
            image.value = viz.render(self.draw, at, partial(_live, alt=self.frame(**at).alt))

        redraw()
        for slider in sliders.values():
            slider.observe(redraw, names="value")
        view: dict[str, Any] = VBox([*sliders.values(), image])._repr_mimebundle_()
        return {mime: data for mime, data in view.items() if "widget-view" in mime}


def _live(figure: viz.Figure, *, alt: str) -> str:
    """Write a figure as the picture of a live view; ipywidgets' Image has no words for it."""
    data, width = b64encode(viz.to_png(figure)).decode(), viz.size_shown(figure)[0]
    return f'<img alt="{escape(alt)}" width="{width}" src="data:image/png;base64,{data}">'


def _axis(name: str, label: str, values: Any, start: Mapping[str, Any]) -> Axis:
    """Check one axis."""
    if isinstance(values, str) or not isinstance(values, Iterable):
        raise TypeError(f"{name} must be a sequence of values; got {values!r}: write [{values!r}]")
    listed = [value.item() if hasattr(value, "item") else value for value in values]
    texts = [_text(value) for value in listed]
    if not texts:
        raise ValueError(f"{name} must have at least one value; got none: give one, or drop {name}")
    if len(set(texts)) < len(texts):
        raise ValueError(
            f"{name} must have values that differ to six digits; got {texts}: drop one of two"
        )
    return Axis(name, label, listed, texts, _index(name, texts, start.get(name, listed[0])))


def _text(value: Any) -> str:
    """How a value reads beside its slider."""
    return f"{value:g}" if isinstance(value, float) else str(value)


def _index(name: str, texts: list[str], value: Any) -> int:
    """Find a value by how it reads, so that 0.3 finds 0.1 + 0.2."""
    if _text(value) not in texts:
        raise ValueError(f"{name} must be one of {', '.join(texts)}; got {value!r}: pick one")
    return texts.index(_text(value))


def _describe(alt: str | Callable[..., str], params: Mapping[str, Any]) -> str:
    text = alt(**params) if callable(alt) else alt
    if not isinstance(text, str) or not text.strip():
        raise ValueError(
            f"alt must say in words what the figure shows; got {text!r}: write what a reader sees"
        )
    return text


def _slider(axis: Axis, identity: str) -> str:
    """Write one slider; it is disabled until the script, which moves the frames, is there."""
    text, width = escape(axis.texts[axis.start]), max(map(len, axis.texts))
    return f"""<label for="{identity}">{escape(axis.label)}</label>
<input type="range" id="{identity}" min="0" max="{len(axis.texts) - 1}" value="{axis.start}"
 aria-valuetext="{text}" data-texts="{escape(json.dumps(axis.texts))}"
 autocomplete="off" disabled>
<output for="{identity}" aria-live="off" style="width: {width}ch">{text}</output>
"""


def _pack(frames: list[Frame]) -> str:
    """Write the frames as JSON that may stand in a page, each piece of SVG only once."""
    pieces: dict[str, int] = {}
    numbers = [
        [pieces.setdefault(piece, len(pieces)) for piece in re.findall("<[^<]*", frame.svg)]
        for frame in frames
    ]
    data = {"pieces": list(pieces), "frames": numbers, "alts": [frame.alt for frame in frames]}
    return json.dumps(data, separators=(",", ":"), ensure_ascii=False).replace("<", r"\u003c")
