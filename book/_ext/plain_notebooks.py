"""Write each chapter also as a notebook in plain Markdown: the download of its page.

Roles, directives and labels belong to Sphinx; JupyterLab, Colab and VS Code show them as they were
typed. So a page is written back into cells after Sphinx has resolved it, and the notebook carries
the page's numbers, references, citations and captions. Hints and answers are folded; so is each
solution, below a heading that JupyterLab keeps closed. The code is the source's, cell by cell.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from nbformat.v4 import new_markdown_cell
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment

CELL, CODE, CLOSED = "\0cell", "\0code", "\0closed"  # what begins a cell
BREAK = re.compile(r"^(?=\0)", re.M)
MARKED = re.compile(r"([\\`*$<]|\b_|_\b)")


class PlainMarkdown:
    """One page as Markdown that every program reads; a method for each kind of node."""

    def __init__(self, env: BuildEnvironment, docname: str) -> None:
        self.env, self.docname, self.depth = env, docname, 0
        self.works: dict[str, str] = {}  # what is cited, by its short form

    def __call__(self, node: nodes.Node) -> str:
        """Write a node."""
        return getattr(self, type(node).__name__, self.inline)(node)

    def inline(self, node: nodes.Node) -> str:
        """Write what stands within a line."""
        return "".join(map(self, node.children))

    def blocks(self, node: nodes.Node) -> str:
        """Write what stands below each other."""
        return "\n\n".join(filter(None, map(self, node.children)))

    def number(self, node: nodes.Element, kind: str) -> str:
        """Find the number that the page shows for a figure, a table, a theorem, an exercise."""
        numbers = self.env.toc_fignumbers[self.docname][kind]
        return ".".join(map(str, numbers[node["ids"][0]]))

    # Within a line

    def Text(self, node: nodes.Text) -> str:
        return MARKED.sub(r"\\\1", node.astext())

    def math(self, node: nodes.math) -> str:
        return f"${' '.join(node.astext().split())}$"

    def literal(self, node: nodes.literal) -> str:
        return f"`{node.astext()}`"

    def emphasis(self, node: nodes.emphasis) -> str:
        return f"*{self.inline(node)}*"

    def strong(self, node: nodes.strong) -> str:
        return f"**{self.inline(node)}**"

    def reference(self, node: nodes.reference) -> str:
        text, address = self.inline(node), node.get("refuri", "")
        if "reftitle" in node:
            self.works[text], address = node["reftitle"], ""
        elif node.get("internal"):
            name = address.partition("#")[0].removesuffix(".html") + ".ipynb"
            page = Path(self.env.doc2path(self.docname)).with_name(name)
            address = name if page.exists() else ""
        return f"[{text}]({address})" if address else text

    number_reference = reference

    def raw(self, node: nodes.raw) -> str:
        return ""

    target = raw

    # Blocks

    document = admonition = proof_node = blocks

    def note(self, node: nodes.note) -> str:
        return quoted(f"**Note.** {self.blocks(node)}")

    def section(self, node: nodes.section) -> str:
        self.depth += 1
        text = self.blocks(node)
        self.depth -= 1
        return text

    def heading(self, text: str, closed: bool = False) -> str:
        """Begin a cell with a heading, and below it another if the heading is to be closed."""
        line = f"{'#' * self.depth} {' '.join(text.split())}"
        return (
            f"{CLOSED}\n\n{line}\n\n{CELL}" if closed else f"{CELL}\n\n{line}"
        )

    def title(self, node: nodes.title) -> str:
        numbers = self.env.toc_secnumbers.get(self.docname, {})
        anchor = "" if self.depth == 1 else f"#{node.parent['ids'][0]}"
        number = ".".join(map(str, numbers.get(anchor, ())))
        return self.heading(
            f"{number}. {self.inline(node)}" if number else self.inline(node)
        )

    def math_block(self, node: nodes.math_block) -> str:
        text = node.astext().strip()
        if node.get("label"):
            text += f" \\tag{{{self.number(node, 'displaymath')}}}"
        return f"$$\n{text}\n$$"

    def literal_block(self, node: nodes.literal_block) -> str:
        return f"```{node['language']}\n{node.astext().strip()}\n```"

    def bullet_list(self, node: nodes.Element) -> str:
        tight = all(len(item.children) == 1 for item in node.children)
        first = node.get("start", 1)
        items = []
        for i, item in enumerate(node.children, first):
            mark = f"{i}. " if isinstance(node, nodes.enumerated_list) else "- "
            items.append(
                mark
                + textwrap.indent(self.blocks(item), " " * len(mark)).lstrip()
            )
        return ("\n" if tight else "\n\n").join(items)

    enumerated_list = bullet_list

    def table(self, node: nodes.table) -> str:
        lines = []
        for row in node.findall(nodes.row):
            cells = [
                " ".join(self.blocks(entry).split()) for entry in row.children
            ]
            lines.append(" | ".join(["", *map(in_table, cells), ""]).strip())
            if isinstance(row.parent, nodes.thead):
                lines.append("|---" * len(cells) + "|")
        title = next(iter(node.findall(nodes.title)), None)
        named = (
            [f"**Table {self.number(node, 'table')}.** {self.inline(title)}"]
            if title
            else []
        )
        return "\n\n".join([*named, "\n".join(lines)])

    def container(self, node: nodes.container) -> str:
        if node.get("nb_element") != "cell_code":
            return self.blocks(node)
        shown = [f"{CODE}{node['cell_index']}"]
        for figure in node.findall(nodes.figure):
            caption = self.inline(next(iter(figure.findall(nodes.caption))))
            shown.append(f"**Fig. {self.number(figure, 'figure')}.** {caption}")
        return "\n\n".join(shown)

    def theorem_node(self, node: nodes.Element) -> str:
        kind = node["realtype"]
        name = f"{kind.capitalize()} {self.number(node, kind)}{self.inline(node[0]).rstrip()}"
        return quoted(f"**{name}.**\n\n{self.blocks(node[1])}")

    definition_node = theorem_node

    def exercise_enumerable_node(self, node: nodes.Element) -> str:
        self.depth += 1
        name = f"Exercise {self.number(node, 'exercise')}{self.inline(node[0])}"
        text = f"{self.heading(name)}\n\n{self.blocks(node[1])}"
        self.depth -= 1
        return text

    def solution_node(self, node: nodes.Element) -> str:
        self.depth += 1
        name = self.heading(
            f"Solution to {node[0].astext().split(maxsplit=2)[2]}", closed=True
        )
        text = f"{name}\n\n{self.blocks(node[1])}"
        self.depth -= 1
        return text

    def dropdown_main(self, node: nodes.Element) -> str:
        title, answer = self.inline(node[0]).strip(), self.blocks(node[1])
        if len(title.split()) < 4:
            return folded(title, answer)
        return f"**{title}**\n\n{folded('The answer', answer)}"


def quoted(text: str) -> str:
    """Set a text apart; JupyterLab takes a formula before it takes the marks away."""
    text = re.sub(
        r"\$\$.*?\$\$", lambda m: " ".join(m[0].split()), text, flags=re.S
    )
    return textwrap.indent(text, "> ", lambda line: True).replace("> \n", ">\n")


def folded(title: str, text: str) -> str:
    """Fold a text below its title."""
    return f"<details><summary>{title}</summary>\n\n{text}\n\n</details>"


def in_table(text: str) -> str:
    """Take out of formulas the bars that would end a cell."""

    def spell(formula: re.Match[str]) -> str:
        return formula[0].replace(r"\|", r"\Vert ").replace("|", r"\vert ")

    return re.sub(r"\$[^$]+\$", spell, text)


def notebook(env: BuildEnvironment, docname: str, tree: nodes.document) -> Any:
    """Make the notebook of a page from its text, and from its source the code cells."""
    made = nbformat.read(env.doc2path(docname), as_version=4)
    code = {
        i: cell for i, cell in enumerate(made.cells) if cell.cell_type == "code"
    }
    write = PlainMarkdown(env, docname)
    text = write(tree)
    if write.works:
        works = "\n".join(f"- {work}" for work in write.works.values())
        text += f"\n\n{CELL}\n\n## Works cited\n\n{works}"
    made.cells = []
    for piece in BREAK.split(text):
        kind, _, body = piece.partition("\n\n")
        if kind.startswith(CODE):  # and before it what the page leaves out
            last = int(kind.removeprefix(CODE))
            made.cells += [code.pop(i) for i in [*code] if i <= last]
        if body.strip():
            made.cells.append(new_markdown_cell(body.strip()))
        if kind == CLOSED:
            made.cells[-1].metadata["jp-MarkdownHeadingCollapsed"] = True
    made.cells += code.values()
    for cell in made.cells:
        cell.metadata.pop("mystnb", None)
        if "remove-cell" in cell.metadata.get("tags", []):
            cell.metadata["jupyter"] = {"source_hidden": True}
    return made


def keep(app: Sphinx, tree: nodes.document, docname: str) -> None:
    """Make the notebook of a page before the writer of the page changes the tree."""
    if app.env.doc2path(docname).endswith(".ipynb"):
        made = notebook(app.env, docname, tree)
        app.env.plain_notebooks[docname] = made  # type: ignore[attr-defined]


def begin(app: Sphinx) -> None:
    """Begin with no notebook made."""
    app.env.plain_notebooks = {}  # type: ignore[attr-defined]


def save(app: Sphinx, error: Exception | None) -> None:
    """Put the notebooks where the pages' buttons lead, over Sphinx's copies of the sources."""
    if error or app.builder.name != "html":
        return
    for page, made in app.env.plain_notebooks.items():  # type: ignore[attr-defined]
        nbformat.write(made, Path(app.outdir, "_sources", f"{page}.ipynb"))


def setup(app: Sphinx) -> dict[str, bool]:
    """Register with Sphinx."""
    app.connect("builder-inited", begin)
    app.connect("doctree-resolved", keep, priority=900)
    app.connect("build-finished", save)
    return {"parallel_read_safe": True, "parallel_write_safe": False}
