"""Say what each page is, to search engines, previews and screen readers.

A page gets a description, and a preview where `_config.yml` sets `html: baseurl`. The first page's
title stands once. Chinese words are marked as Chinese. A root page leads to the first page, and a
page for addresses that are none leads back.
"""

from __future__ import annotations

import re
import textwrap
from html import escape
from itertools import takewhile
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx

CHINESE = re.compile(
    r"(<script.*?</script>|<[^>]*>)|([\u4e00-\u9fff][\u3000-\u9fff\uff00-\uffef]*)",
    re.S,
)
PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
{head}
<title>{title}</title>
</head>
<body style="max-width: 40em; margin: 4em auto; padding: 0 1em; font-family: sans-serif">
<main>
<h1>{heading}</h1>
<p>{text}</p>
</main>
</body>
</html>
"""


def mark_chinese(body: str) -> str:
    """Mark each run of Chinese in the text of a page, so that a screen reader can pronounce it."""
    return CHINESE.sub(lambda m: m[1] or f'<span lang="zh">{m[2]}</span>', body)


def description(tree: nodes.document) -> str:
    """Shorten the first sentences, up to a formula, to what a list of results has room for."""
    for paragraph in tree.findall(nodes.paragraph):
        if not isinstance(paragraph.parent, nodes.section):
            continue
        words = takewhile(
            lambda node: not isinstance(node, nodes.math), paragraph.children
        )
        text = " ".join("".join(node.astext() for node in words).split())
        sentences = text[
            : 1 + max(f"{text} ".rfind(f"{end} ") for end in ".?!")
        ]
        if len(sentences) >= 40:
            return textwrap.shorten(sentences, 200, placeholder=" …")
    return ""


def tags(title: str, text: str, base: str, page: str) -> str:
    """Write the description of a page, and with an address of the book its preview."""
    found = [("name", "description", text)]
    if base:
        address = f"{base.rstrip('/')}/"
        found += [
            ("property", "og:type", "article"),
            ("property", "og:title", title),
            ("property", "og:description", text),
            ("property", "og:url", f"{address}{page}.html"),
            ("property", "og:image", f"{address}_static/book.png"),
        ]
    return "\n".join(
        f'<meta {kind}="{name}" content="{escape(to)}">'
        for kind, name, to in found
    )


def complete(
    app: Sphinx,
    page: str,
    template: str,
    context: dict[str, Any],
    tree: nodes.document | None,
) -> None:
    """Complete what the theme's template is given."""
    title = re.sub("<[^>]*>", "", context.get("title", ""))
    if page == app.config.root_doc:
        context["docstitle"] = ""  # it is the page's own
    text = description(tree) if tree else ""
    if text:
        head = tags(title, text, app.config.html_baseurl, page)
        context["metatags"] = f"{context.get('metatags', '')}\n{head}"
        if page == app.config.root_doc:
            app.env.book_text = text  # type: ignore[attr-defined]
    for part in {"body", "toc"} & {*context}:
        context[part] = mark_chinese(context[part])
    # The words of the button, "Show code cell source", are its name.
    named = '<summary aria-label="Toggle hidden content">'
    context["body"] = context.get("body", "").replace(named, "<summary>")


def write_outer_pages(app: Sphinx, error: Exception | None) -> None:
    """Write the root page and the page that a host shows for an address that is none."""
    if error or app.builder.name != "html":
        return
    config = app.config
    title, first = escape(config.html_title), f"{config.root_doc}.html"
    if first != "index.html":
        text = getattr(app.env, "book_text", "")
        head = tags(
            config.html_title, text, config.html_baseurl, config.root_doc
        )
        head += f'\n<meta http-equiv="refresh" content="0; url={first}">'
        link = f'<a href="{first}">Open the book</a>'
        page = PAGE.format(
            head=head,
            title=title,
            heading=title,
            text=f"{escape(text)} {link}.",
        )
        Path(app.outdir, "index.html").write_text(page, "utf8")
    index = Path(app.outdir, "genindex.html")
    if (
        index.is_file()
    ):  # its letters are the template's own, not the page's body
        index.write_text(mark_chinese(index.read_text("utf8")), "utf8")
    base = f"{config.html_baseurl.rstrip('/')}/" if config.html_baseurl else ""
    page = PAGE.format(
        head='<meta name="robots" content="noindex">',
        title=f"Page not found &#8212; {title}",
        heading="There is no such page",
        text=f'Pages of the book may have moved: look on <a href="{base}{first}">its first page</a> '
        f'or <a href="{base}search.html">search it</a>.',
    )
    Path(app.outdir, "404.html").write_text(page, "utf8")


def setup(app: Sphinx) -> dict[str, bool]:
    """Connect to Sphinx."""
    app.connect("html-page-context", complete)
    app.connect("build-finished", write_outer_pages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
