"""A page shows what the library does now, and nothing runs twice: on a small book."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import freshness
import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]

CODE = 'from ssmlab import answer\nprint("The answer is", answer.VALUE)'
CONF = """
extensions = ["myst_nb", "freshness"]
nb_execution_mode = "cache"
exclude_patterns = ["_build"]
html_theme = "basic"
"""


@pytest.fixture
def book(tmp_path):
    """A book of one page, whose library has two modules and no module called torch."""
    chapter = nbformat.v4.new_notebook(
        cells=[nbformat.v4.new_markdown_cell("# One"), nbformat.v4.new_code_cell(CODE)]
    )
    chapter.metadata = {"kernelspec": {"name": "python3", "display_name": "", "language": "python"}}
    chapter.cells[1].execution_count = 1
    chapter.cells[1].outputs = [nbformat.v4.new_output("stream", text="The answer is 41\n")]
    nbformat.write(chapter, tmp_path / "index.ipynb")
    (tmp_path / "conf.py").write_text(CONF)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
    (tmp_path / "ssmlab").mkdir()
    for name, text in {"__init__": "", "answer": "VALUE = 41\n", "other": "VALUE = 0\n"}.items():
        (tmp_path / "ssmlab" / f"{name}.py").write_text(text)
    return tmp_path


def run(folder: Path, *command: str) -> str:
    """Run a module of Python in a folder, and return what it prints."""
    path = os.pathsep.join(map(str, [folder, ROOT / "tools"]))
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def build(book, monkeypatch, capfd):
    """Build the book; return the body of its page, and whether the page's code ran."""
    from sphinx.cmd.build import build_main

    monkeypatch.chdir(book)
    monkeypatch.syspath_prepend(ROOT / "tools")
    monkeypatch.setenv("PYTHONPATH", str(book))  # for the kernel

    def built() -> tuple[str, bool]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Sphinx counts its own
            failed = build_main(["-W", "-d", "_build/.doctrees", ".", "_build/html"])
        log = "".join(capfd.readouterr())
        assert not failed, log
        page = Path("_build", "html", "index.html").read_text("utf8")
        return page.partition("<body>")[2], "Executing notebook" in log

    return built


def test_page_shows_what_the_library_does_now_and_nothing_runs_twice(book, build):
    compare = ["pytest", "-q", "-p", "chapter_runs", "--nbval", "--nbval-current-env"]
    run(book, *compare, "index.ipynb")
    compared, ran = build()
    assert "The answer is 41" in compared
    assert not ran, "the comparison ran it already"

    (book / "ssmlab" / "other.py").write_text("VALUE = 1\n")
    os.utime(book / "ssmlab" / "answer.py")
    assert build() == (compared, False), "nothing that the page depends on has changed"

    (book / "ssmlab" / "answer.py").write_text("VALUE = 42\n")
    page, ran = build()
    assert ran
    assert page == compared.replace("41", "42"), "the page is stale, or a run of its own differs"


# What a chapter depends on


def reached(code: str) -> set[str]:
    files = freshness.library([code], ROOT)
    return {path.relative_to(ROOT).as_posix() for path in files if path.suffix == ".py"}


@pytest.mark.parametrize("code", ["ssmlab.StateSpace", "ssmlab.nn", "from ssmlab import s4"])
def test_imports_are_followed(code):
    """The files found by reading are at least those that Python loads."""
    listing = "[m.__file__ for n, m in sys.modules.items() if n.partition('.')[0] == 'ssmlab']"
    code = f"import sys, ssmlab\n{code}"
    loaded = run(ROOT, "timeit", "-n1", "-r1", "-s", f"{code}\nprint(*{listing})")
    names = {Path(name).relative_to(ROOT).as_posix() for name in loaded.splitlines()[0].split()}
    assert names <= reached(code)


def test_chapter_depends_on_what_it_imports_only():
    assert reached("import numpy") == set()
    assert "ssmlab/lti.py" in reached("import ssmlab\nssmlab.lti.kernel")
    assert "ssmlab/lti.py" in reached("from ssmlab import DiscreteStateSpace")
    assert "ssmlab/selective.py" in reached("import ssmlab\nssmlab.selective_scan")
    assert not any("/nn/" in name for name in reached("from ssmlab import hippo, lti"))


def test_chapter_depends_on_the_records_that_it_names(tmp_path):
    folder = tmp_path / "book" / "experiments"
    (folder / "model").mkdir(parents=True)
    names = ["digits.json", "digits.py", "model/weights.bin", "other.json"]
    for name in names:
        (folder / name).write_text("")
    found = freshness.records(['stored("digits")', 'load("model")'], tmp_path)
    assert sorted(path.name for path in found) == ["digits.json", "weights.bin"]
