"""What was handed in is found, whatever platform gave it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from nbformat import NotebookNode
from nbformat.v4 import new_markdown_cell, new_notebook

from ssm_classroom.__main__ import main
from ssm_classroom.collect import collect
from ssm_classroom.course import Course
from ssm_classroom.notebook import read
from tiny import FIRST, QUIET, answered, hand_in, released

pytestmark = QUIET
MINUTE = (2026, 3, 1, 12, 30, 0)


def packed(path: Path, files: dict[str, NotebookNode | bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            raw = content if isinstance(content, bytes) else json.dumps(content)
            archive.writestr(zipfile.ZipInfo(name, MINUTE), raw)
    return path


@pytest.mark.parametrize(
    ("files", "student", "file"),
    [
        (["Ada Lovelace_1234_assignsubmission_file_/tiny.ipynb"], "Ada_Lovelace_1234", "tiny"),
        (["all/Ada Lovelace_1234_assignsubmission_file_tiny.ipynb"], "Ada_Lovelace_1234", "tiny"),
        (["lovelaceada_LATE_123_456_tiny-1.ipynb"], "lovelaceada", "tiny-1"),
        (["lovelaceada_123_456_My Work.ipynb"], "lovelaceada", "My Work"),
        (["Tiny_ada1_attempt_2026-03-01-12-30-00_tiny.ipynb"], "ada1", "tiny"),
        (["ada1/tiny.ipynb"], "ada1", "tiny"),
        (["submitted/ada1/tiny/other.ipynb"], "ada1", "other"),
    ],
)
def test_collect_knows_the_platforms(course, mine, tmp_path, files, student, file):
    given = packed(tmp_path / "export.zip", {name: released(course) for name in files})
    (line,) = collect(mine, "tiny", given)
    assert line.startswith(f"{student}: handed in 2026-03-01 12:30 UTC")
    assert (f"called {file}.ipynb" in line) == (file != "tiny")
    assert read(mine.notebook("submitted", "tiny", student)).cells
    stamp = mine.place("submitted", "tiny", student) / "timestamp.txt"
    assert stamp.read_text() == "2026-03-01 12:30:00 UTC\n"


def test_collect_chooses_and_is_not_fooled(course, mine, tmp_path):
    new = answered(course)
    inner = packed(tmp_path / "inner.zip", {"work/tiny.ipynb": new})
    files = {
        "ada/notes.ipynb": new_notebook(cells=[new_markdown_cell("shopping")]),
        "ada/tiny.ipynb": new,
        "../../evil/tiny.ipynb": new,
        "/evil/tiny.ipynb": new,
        "bob/tiny.ipynb": b"no notebook",
        "carl/all.zip": inner.read_bytes(),
        "dora/all.zip": b"no zip",
        "__MACOSX/ada/tiny.ipynb": new,
        "loose.ipynb": new,
    }
    lines = collect(mine, "tiny", packed(tmp_path / "export.zip", files))
    assert "Left out, no student in its name: loose.ipynb" in lines
    assert [p.name for p in sorted((mine.root / "submitted").iterdir())] == ["ada", "bob", "carl"]
    assert read(mine.notebook("submitted", "tiny", "ada")).cells[2].source == FIRST
    assert not list(tmp_path.rglob("evil"))
    (line,) = collect(
        mine, "tiny", packed(tmp_path / "b.zip", {"w-eve-x.ipynb": new}), r"w-(?P<student>\w+)-.*"
    )
    assert line.startswith("eve: ")


def test_collect_takes_nbgraders_times(course, mine, tmp_path):
    hand_in(Course(tmp_path / "in"), "ada", released(course))
    place = Course(tmp_path / "in").place("submitted", "tiny", "ada")
    (place / "timestamp.txt").write_text("2026-02-03 04:05:06 UTC")
    (line,) = collect(mine, "tiny", tmp_path / "in")
    assert line.startswith("ada: handed in 2026-02-03 04:05 UTC")


def test_collect_says_what_is_wrong(course, tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    command = ["collect", "--course", str(course.root)]
    assert main([*command, "tiny", str(tmp_path / "empty")]) == 2
    assert "given must hold a student's notebook; got none in" in capsys.readouterr().err
    assert main([*command, "tiny", str(tmp_path / "missing.zip")]) == 2
    assert "given must be a folder or a zip; got" in capsys.readouterr().err
    assert main([*command, "huge", str(tmp_path)]) == 2
    assert "(tiny); got 'huge'" in capsys.readouterr().err
