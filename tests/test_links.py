"""The check of the built book's links sees each way in which one can be broken."""

from __future__ import annotations

import links
import pytest


@pytest.fixture
def site(tmp_path):
    """Two pages, a picture and a style sheet, all links whole."""
    pages = {
        "index.html": """<a href="sub/b.html#%C3%A4">b</a> <a href="#here">here</a> <a name="here">
            <a href="sub/">folder</a> <a href="https://example.org/x">away</a> <img src="a.png?v=1">
            <a href="mailto:a@b.c">mail</a> <link rel="stylesheet" href="a.css">""",
        "sub/b.html": '<h1 id="ä">B</h1> <a href="../index.html">a</a>',
        "sub/index.html": "",
        "a.css": "body { background: url('a.png') } i { background: url(data:image/png,) }",
        "a.png": "",
    }
    (tmp_path / "sub").mkdir()
    for name, text in pages.items():
        (tmp_path / name).write_text(text, "utf8")
    return tmp_path


def test_whole_links_are_whole(site):
    assert links.broken(site) == []


BREAKS = {
    "no.html": '<a href="no.html">',
    "#no": '<a href="#no">',
    "sub/b.html#no": '<a href="sub/b.html#no">',
    "no.png": '<img alt="" src="no.png">',
    "no.svg": '<img srcset="a.png 1x, no.svg 2x">',
    "no.js": '<script src="no.js"></script>',
    "no.pdf": '<object data="no.pdf"></object>',
    "no.jpg": '<p style="background: url(no.jpg)">',
    "/index.html": '<a href="/index.html">',
    "sub/index.html#no": '<a href="sub/index.html#no">',
}


@pytest.mark.parametrize("address", BREAKS)
def test_broken_link_is_seen(site, address):
    with (site / "index.html").open("a") as page:
        page.write(BREAKS[address])
    [sentence] = links.broken(site)
    assert f"index.html: {address}: no such" in sentence


def test_broken_link_of_a_style_sheet_is_seen(site):
    (site / "a.css").write_text("body { background: url('../a.png') }")
    assert links.broken(site) == ["a.css: ../a.png: no such file"]
