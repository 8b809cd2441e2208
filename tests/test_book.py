"""The chapters are clean, all of them are in the book, and the tools that see to it work."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import nbformat
import notebooks
import offline_assets
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]


# The book


@pytest.mark.parametrize("path", notebooks.chapters(), ids=lambda path: path.stem)
def test_notebook_is_clean(path):
    assert notebooks.problems(nbformat.read(path, as_version=4)) == []


def files_in_toc() -> set[str]:
    text = (ROOT / "_toc.yml").read_text("utf8")
    return set(re.findall(r"^ *-? *(?:file|root): *(\S+)$", text, re.MULTILINE))


def test_table_of_contents_lists_the_pages():
    pages = [*notebooks.chapters(), *(ROOT / "book").rglob("*.md")]
    names = {str(path.relative_to(ROOT).with_suffix("").as_posix()) for path in pages}
    assert files_in_toc() == names


def test_first_page_names_every_chapter():
    text = (ROOT / "book" / "index.md").read_text("utf8")
    chapters = [path.stem for path in notebooks.chapters() if path.stem[0].isdigit()]
    assert chapters
    assert [name for name in chapters if name not in text] == []


def test_figures_of_a_chapter_are_named_once():
    names = [
        cell.metadata.get("mystnb", {}).get("figure", {}).get("name")
        for path in notebooks.chapters()
        for cell in nbformat.read(path, as_version=4).cells
    ]
    named = [name for name in names if name]
    assert sorted(set(named)) == sorted(named)


def words(text: str) -> str:
    """Write a text in small letters, with one space between words."""
    return re.sub(r"[-\s*]+", " ", text).lower()


def places_without_their_word(glossary: str, chapters: dict[str, str]) -> list[str]:
    """Find the glossary's terms that lead to a chapter in which they do not occur."""
    missing = []
    for term, text in re.findall(r"^(\w.*)\n.*\n((?:  .*\n?)+)", glossary, re.MULTILINE):
        word = words(re.sub(r" \(.*\)", "", term)).removesuffix("s")
        for label in re.findall(r"<(ch-[\w-]+)>", text):
            if word not in chapters[label] and f"{word[:-1]}ie" not in chapters[label]:
                missing.append(f"{term}: {label}")
    return missing


def test_glossary_leads_to_where_the_word_is():
    chapters = {}
    for path in notebooks.chapters():
        cells = nbformat.read(path, as_version=4).cells
        text = "\n".join(c.source for c in cells if c.cell_type == "markdown")
        text += "\n".join(json.dumps(c.metadata) for c in cells)
        if label := re.match(r"\((ch-[\w-]+)\)=", text):
            chapters[label[1]] = words(text)
    glossary = (ROOT / "book" / "appendix_glossary.md").read_text("utf8")
    assert places_without_their_word(glossary, chapters) == []
    broken = "Woodbury\n伍德伯里\n  An identity. Ch. {ref}`1 <ch-state>`.\n"
    assert places_without_their_word(broken, chapters) == ["Woodbury: ch-state"]


def wrong_chapters(text: str, number: dict[str, int]) -> list[str]:
    """Find references that give a chapter another number than the table of contents does."""
    wrong = [
        f"{said} <{label}>"
        for said, label in re.findall(r"(\d+)\s*<(ch-[\w-]+)>", text)
        if number.get(label) != int(said)
    ]
    bare = re.findall(r"(?:Ch\.|<ch-[\w-]+>`,)\s*(\d+)", text)
    wrong += [f"{n} without a link" for n in bare]
    plain = re.findall(r"\b[Cc]hapters?\s+(\d+)(?:(?:,| and| to)\s+(\d+))?(?!.{0,3}section)", text)
    return wrong + [f"chapter {n}" for pair in plain for n in pair if n and int(n) > len(number)]


def test_a_chapter_is_called_by_its_number():
    number = {}
    for path in notebooks.chapters():
        first = nbformat.read(path, as_version=4).cells[0].source
        if place := re.match(r"(\d\d)_", path.name):
            number[re.match(r"\((ch-[\w-]+)\)=", first)[1]] = int(place[1])
    assert sorted(number.values()) == list(range(1, len(number) + 1))
    texts = [*ROOT.glob("book/**/*.md"), *ROOT.glob("ssmlab/**/*.py"), *notebooks.chapters()]
    wrong = {
        path.name: found
        for path in texts
        if (found := wrong_chapters(path.read_text("utf8").replace('\\n",\n    "', " "), number))
    }
    assert wrong == {}
    assert wrong_chapters("{ref}`chapter 3 <ch-state>`, Ch. 2, chapters 2 and 17", number) == [
        "3 <ch-state>",
        "2 without a link",
        "chapter 17",
    ]


PAPER = dict.fromkeys(("18.3", "56.4"), "the Mamba paper, table 1")
#: Numbers of the text that no cell prints, and where they come from.
STATED: dict[str, dict[str, str]] = {
    "07_resolution": {"1.49": "the issue that is named beside it"},
    "12_selectivity": PAPER
    | dict.fromkeys(("10.93", "10.15", "9.98", "9.81", "8.71"), "the Mamba paper")
    | {"0.9999": "what an exercise asks for"},
    "16_mamba": PAPER
    | {"99.8": "the Mamba paper, table 1", "0.98": "set in nn.fit_language_model"},
}


def unprinted(nb: Any) -> list[str]:
    """List the decimal numbers of text, captions and alternative texts that no cell shows.

    A number is shown if a cell's code or output holds one that rounds to it, as a share or in per
    cent. Code and equations set apart in the text are left out; so are one-digit numbers.
    """
    code = "\n".join(
        cell.source + "".join(output.get("text", "") for output in cell.outputs)
        for cell in nb.cells
        if cell.cell_type == "code"
    )
    found = re.findall(r"\d+(?:\.\d+)?(?:e[+-]?\d+)?", code.replace(",", ""))
    shown = [float(n) for text in found for n in {text, text.partition("e")[0]}]
    texts = []
    for cell in nb.cells:
        figure = cell.metadata.get("mystnb", {})
        texts += [
            figure.get("figure", {}).get("caption", ""),
            figure.get("image", {}).get("alt", ""),
        ]
        if cell.cell_type == "markdown":
            texts.append(NOT_PROSE.sub(" ", cell.source))
    numbers = re.findall(r"(?<![\w.^{_\\])\d+\.\d+", "\n".join(texts))
    return sorted({n for n in numbers if significant(n) > 1 and not is_shown(n, shown)})


NOT_PROSE = re.compile(
    r"```.*?```|\$\$.*?\$\$|\{[\w:-]+\}`[^`]*`|`[^`]*`|^:\w[\w-]*:.*?$"
    r"|arXiv:\S+|[Ss]ections? \d[\d.]*",
    re.DOTALL | re.MULTILINE,
)


def significant(number: str) -> int:
    return len(number.replace(".", "").lstrip("0"))


def is_shown(number: str, shown: list[float]) -> bool:
    places = len(number.partition(".")[2])
    return any(round(unit * n, places) == float(number) for n in shown for unit in (1, 100))


@pytest.mark.parametrize("path", notebooks.chapters(), ids=lambda path: path.stem)
def test_numbers_of_the_text_are_printed(path):
    found = unprinted(nbformat.read(path, as_version=4))
    assert sorted(set(found) - STATED.get(path.stem, {}).keys()) == []
    assert sorted(STATED.get(path.stem, {}).keys() - set(found)) == [], "print them no more"


def test_a_number_that_is_not_printed_is_seen():
    nb = clean_notebook()
    nb.cells[0].source += " It is 0.58 of the first, or 57.9 %, and $e^{-0.5} = 0.607$."
    assert unprinted(nb) == ["0.58", "0.607", "57.9"]
    nb.cells[-1].outputs.append(output("stream", name="stdout", text="0.5791 0.60653"))
    assert unprinted(nb) == []


def words_before_the_exercises(nb: Any) -> int:
    """Count the words of a chapter's text, without formulas, code and what stands in captions."""
    text = "\n".join(cell.source for cell in nb.cells if cell.cell_type == "markdown")
    text = NOT_PROSE.sub(" ", text.partition("\n## Exercises")[0])
    return len(re.findall(r"[A-Za-z][\w'’-]*", re.sub(r"\$[^$]*\$", " ", text)))


@pytest.mark.parametrize("path", notebooks.chapters(), ids=lambda path: path.stem)
def test_a_chapter_can_be_read_at_a_sitting(path):
    assert words_before_the_exercises(nbformat.read(path, as_version=4)) <= 3500


def test_words_are_counted_before_the_exercises():
    nb = clean_notebook()
    nb.cells[0].source = "# Two words\n\nWith $h_k$ three.\n\n## Exercises\n\nNot counted."
    assert words_before_the_exercises(nb) == 4


# The rules: a clean notebook passes, and each way to break one is seen


def clean_notebook() -> Any:
    v4 = nbformat.v4
    title = v4.new_markdown_cell("(ch-test)=\n# A test\n\nText.")
    figure = v4.new_code_cell("plot()", execution_count=2)
    figure.metadata = {"mystnb": {"image": {"alt": "A line."}, "figure": {"caption": "A line."}}}
    figure.outputs = [
        v4.new_output("display_data", data={"text/plain": "<Figure size 640x360 with 1 Axes>"})
    ]
    install = v4.new_code_cell(
        notebooks.install_source(notebooks.repository_url()), execution_count=1
    )
    nb = v4.new_notebook(cells=[title, install, figure])
    nb.metadata = {"kernelspec": notebooks.KERNELSPEC}
    return nb


def output(kind: str, **content: Any) -> Any:
    return nbformat.v4.new_output(kind, **content)


FRAMES = '<script type="application/json" class="ssmlab-frames">{"a": 1}</script>'

BREAKS = {
    "not a markdown cell": lambda nb: nb.cells.pop(0),
    "label and a title": lambda nb: nb.cells[0].update(source="# A title without a label"),
    "not the canonical one": lambda nb: nb.cells[1].update(source="import ssmlab"),
    "notebook's metadata": lambda nb: nb.metadata.update(language_info={"version": "3.11.7"}),
    "metadata of an editor": lambda nb: nb.cells[2].metadata.update(vscode={}),
    "did not run in order": lambda nb: nb.cells[2].update(execution_count=7),
    "1..2: [1, None]": lambda nb: nb.cells[2].update(execution_count=None),
    "failed: ValueError: no": lambda nb: nb.cells[2].outputs.append(
        output("error", ename="ValueError", evalue="no")
    ),
    "writes to stderr": lambda nb: nb.cells[2].outputs.append(
        output("stream", name="stderr", text="Warning")
    ),
    "stores image/png": lambda nb: nb.cells[2].outputs[0].data.update({"image/png": "iVBORw"}),
    "stores image/svg+xml": lambda nb: nb.cells[2].outputs[0].data.update({"image/svg+xml": "<s"}),
    "stores application/vnd.jupyter.widget": lambda nb: (
        nb.cells[2].outputs[0].data.update({"application/vnd.jupyter.widget-view+json": {}})
    ),
    "frames of a slider": lambda nb: nb.cells[2].outputs[0].data.update({"text/html": FRAMES}),
    "a picture, the frames": lambda nb: (
        nb.cells[2].outputs[0].data.update({"text/html": '<img src="data:image/png;base64,iV">'})
    ),
    "address in memory": lambda nb: nb.cells[2].outputs.append(
        output("stream", text="<function f at 0x7f00aa>")
    ),
    "picture in its text": lambda nb: nb.cells[0].update(
        source="(ch-test)=\n# A test\n\n![](data:image/png;base64,iV)"
    ),
    "without alt text": lambda nb: nb.cells[2].metadata["mystnb"].pop("image"),
    "without caption": lambda nb: nb.cells[2].metadata["mystnb"]["figure"].update(caption=" "),
    "has the tag": lambda nb: nb.cells[2].metadata.update(tags=["nbval-skip"]),
    "comment for nbval": lambda nb: nb.cells[2].update(source="# NBVAL_IGNORE_OUTPUT\nplot()"),
    "ends with a semicolon": lambda nb: nb.cells[2].update(source="plot();"),
    "begins a list": lambda nb: nb.cells[0].update(
        source=nb.cells[0].source + "\n\nIt settles at\n1. Why?"
    ),
    "dropdown} Hint": lambda nb: nb.cells[0].update(
        source=nb.cells[0].source + "\n\n::::{exercise} A\nWhy?\n\n*Hint:* Because.\n::::"
    ),
    "absolute path": lambda nb: nb.cells[2].update(source='open("/home/me/data.csv")'),
    "absolute path: '/tmp": lambda nb: nb.cells[2].outputs.append(
        output("stream", text="saved /tmp/figure.txt")
    ),
}


def test_clean_notebook_has_no_problems():
    assert notebooks.problems(clean_notebook()) == []


@pytest.mark.parametrize("sentence", BREAKS)
def test_rule_sees(sentence):
    nb = clean_notebook()
    BREAKS[sentence](nb)
    assert any(sentence in problem for problem in notebooks.problems(nb)), sentence


def test_slider_needs_a_caption_but_carries_its_own_alt_text():
    nb = clean_notebook()
    cell = nb.cells[2]
    cell.outputs[0].data = {"text/html": '<div class="ssmlab-explore"></div>'}
    cell.metadata = {"mystnb": {"figure": {"caption": "A line."}}}
    assert notebooks.problems(nb) == []
    cell.metadata = {}
    assert [p for p in notebooks.problems(nb) if "caption" in p]
    assert not [p for p in notebooks.problems(nb) if "alt text" in p]


# Refreshing


def test_cleaning_keeps_text_and_drops_pictures():
    nb = clean_notebook()
    data = nb.cells[2].outputs[0].data
    data.update({"image/png": "iVBORw", "text/html": f'<img src="data:image/png,a">{FRAMES}'})
    nb.cells[2].metadata["collapsed"] = True
    nb.cells[2].outputs.append(output("stream", text="a b at 0xff\n"))
    cleaned = notebooks.clean(nb)
    assert notebooks.problems(cleaned) == []
    assert cleaned.cells[2].outputs[0].data == {
        "text/plain": "<Figure size 640x360 with 1 Axes>",
        "text/html": '<img src="">' + FRAMES.replace('{"a": 1}', "[]"),
    }
    assert [o.text for o in cleaned.cells[2].outputs[1:]] == ["a b at 0x0\n"]


def test_ids_follow_the_text():
    first, second = notebooks.clean(clean_notebook()), clean_notebook()
    second.cells.insert(1, nbformat.v4.new_markdown_cell("One more."))
    second = notebooks.clean(second)
    assert [c.id for c in first.cells] == [c.id for c in second.cells if c.source != "One more."]


def write(nb: Any, path: Path) -> Path:
    nbformat.write(nb, path)
    return path


def test_refresh_runs_and_cleans(tmp_path):
    v4 = nbformat.v4
    code = 'print("six", flush=True)\nprint(2 * 3)\n2 * 3.0'
    nb = v4.new_notebook(
        cells=[v4.new_markdown_cell("(ch-test)=\n# A test"), v4.new_code_cell(code)]
    )
    path = write(nb, tmp_path / "one.ipynb")
    source = notebooks.install_source(notebooks.repository_url())
    notebooks.refresh(path, source, timeout=60)
    fresh = nbformat.read(path, as_version=4)
    assert notebooks.problems(fresh) == []
    assert fresh.cells[1].source == source
    assert fresh.cells[2].outputs[0].text == "six\n6\n"
    assert fresh.cells[2].outputs[1].data == {"text/plain": "6.0"}
    stored = path.read_bytes()
    notebooks.refresh(path, source, timeout=60)
    assert path.read_bytes() == stored


def test_refresh_of_a_failing_notebook_stores_nothing(tmp_path):
    nb = clean_notebook()
    nb.cells[2].source = "1 / 0"
    path = write(nb, tmp_path / "one.ipynb")
    done = subprocess.run(
        [sys.executable, str(ROOT / "tools" / "notebooks.py"), "refresh", str(path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stdout + done.stderr
    assert nbformat.read(path, as_version=4).cells[2].outputs == nb.cells[2].outputs


def test_refresh_that_is_cut_leaves_the_chapter(tmp_path, monkeypatch):
    path = write(clean_notebook(), tmp_path / "one.ipynb")
    source = notebooks.install_source("")

    def fail(nb, place):
        place.write_text("half of it")
        raise OSError("disk full")

    monkeypatch.setattr(notebooks, "NotebookClient", mock.Mock())
    monkeypatch.setattr(notebooks.nbformat, "write", fail)
    with pytest.raises(OSError, match="disk full"):
        notebooks.refresh(path, source, timeout=60)
    nbformat.read(path, as_version=4)
    assert [p.name for p in tmp_path.iterdir()] == ["one.ipynb"]


def test_changed_number_is_seen(tmp_path):
    nb = clean_notebook()
    nb.cells = [nb.cells[0], nbformat.v4.new_code_cell('print(f"{2 / 3:.3f}")')]
    right, wrong = write(nb, tmp_path / "right.ipynb"), tmp_path / "wrong.ipynb"
    notebooks.refresh(right, notebooks.install_source(""), timeout=60)
    wrong.write_text(right.read_text("utf8").replace("0.667", "0.668"), "utf8")
    options = ["--nbval", "--nbval-current-env", "--nbval-sanitize-with"]
    sanitize = str(ROOT / "tests" / "nbval_sanitize.cfg")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *options, sanitize, tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 failed, 3 passed" in done.stdout
    assert "FAILED wrong.ipynb::Cell 1" in done.stdout


def test_first_cell_says_or_does_what_is_needed(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install"):
        exec(notebooks.install_source(""))
    url = "https://github.com/someone/book"
    assert f'%pip install --quiet "ssmlab[book,torch] @ git+{url}"' in notebooks.install_source(url)


# The built pages


def test_mathjax_is_there():
    assert offline_assets.mathjax_file().stat().st_size > 1e6


@pytest.mark.parametrize(
    ("asset", "wanted"),
    [
        ("_static/doctools.js", True),
        (None, True),
        ("sphinx-thebe.js", False),
        ("https://unpkg.com/thebe@0.8.2/lib/index.js", False),
        ("//cdn.example.org/require.min.js", False),
        (SimpleNamespace(attributes={"type": "application/vnd.jupyter.widget-state+json"}), False),
    ],
)
def test_unwanted_assets_are_dropped(asset, wanted):
    assert offline_assets.is_wanted(asset) is wanted


def test_without_a_repository_no_button_leads_to_it():
    given = {"repository_url": "", "launch_buttons": {"colab_url": "x"}}
    options = offline_assets.theme_options(given)
    assert not options["repository_url"]
    assert not options["launch_buttons"]


def test_buttons_follow_the_repository(tmp_path):
    """A small book with a repository opens in Colab and Binder."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))
    config["repository"]["url"] = "https://github.com/someone/book"
    config["bibtex_bibfiles"] = [str(ROOT / "book" / "references.bib")]
    config["execute"] = {"execute_notebooks": "off"}
    config["sphinx"]["local_extensions"] = {"offline_assets": str(ROOT / "book" / "_ext")}
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(config), "utf8")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: one\n", "utf8")
    write(clean_notebook(), tmp_path / "one.ipynb")
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    done = subprocess.run(
        [jupyter_book, "build", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "_build" / "html" / "one.html").read_text("utf8")
    links = [
        "colab.research.google.com/github/someone/book/blob/main/one.ipynb",
        "mybinder.org/v2/gh/someone/book/main?urlpath=lab/tree/one.ipynb",
        'href="https://github.com/someone/book"',
    ]
    for link in links:
        assert link in page, link
    assert "_sources/one.ipynb" in page
    shutil.rmtree(tmp_path / "_build")


def test_pages_describe_themselves(tmp_path):
    """A small book with an address: previews, the root page, 404, and Chinese marked as such."""
    config = yaml.safe_load((ROOT / "_config.yml").read_text("utf8"))
    config["bibtex_bibfiles"] = [str(ROOT / "book" / "references.bib")]
    config["html"]["baseurl"] = "https://books.example.edu/ssm"
    config["sphinx"]["local_extensions"] = {"page_heads": str(ROOT / "book" / "_ext")}
    (tmp_path / "book").mkdir()
    (tmp_path / "_config.yml").write_text(yaml.safe_dump(config, allow_unicode=True), "utf8")
    (tmp_path / "_toc.yml").write_text("format: jb-book\nroot: book/one\n", "utf8")
    said = "A state is what the past leaves to the future."
    text = f"# One\n\n{said} It is $h$.\n\n## State (状态)\n\nEnd.\n"
    (tmp_path / "book" / "one.md").write_text(text, "utf8")
    jupyter_book = Path(sys.executable).with_name("jupyter-book")
    done = subprocess.run(
        [jupyter_book, "build", str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    built = tmp_path / "_build" / "html"
    page, root, lost = (
        (built / name).read_text("utf8") for name in ("book/one.html", "index.html", "404.html")
    )
    for words in (page, root):
        assert f'<meta name="description" content="{said}">' in words
        assert 'property="og:url" content="https://books.example.edu/ssm/book/one.html"' in words
    assert page.count('<span lang="zh">状态</span>') >= 2, "the heading, and the contents beside it"
    assert page.count("状态") == page.count('<span lang="zh">状态</span>')
    assert '<html lang="en">' in root
    assert '<a href="book/one.html">' in root
    assert 'href="https://books.example.edu/ssm/book/one.html"' in lost
    shutil.rmtree(tmp_path / "_build")
