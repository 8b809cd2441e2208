"""The commands, and what they say to students and instructors."""

from __future__ import annotations

import json
import zipfile

import nbformat
from nbformat import NotebookNode
from nbformat.v4 import new_notebook

from ssm_classroom.__main__ import main
from ssm_classroom.check import check
from ssm_classroom.release import release_zips
from tiny import QUIET, WRONG, answered, doubled, edited

pytestmark = QUIET


def test_check_says_what_fails_in_plain_words(course, tmp_path):
    def problems(notebook: NotebookNode | bytes) -> str:
        path = tmp_path / "tiny.ipynb"
        raw = notebook if isinstance(notebook, bytes) else json.dumps(notebook).encode()
        path.write_bytes(raw)
        return "\n".join(check(path))

    mine = edited(answered(course, WRONG), "why", source="Because.")
    assert problems(mine) == "Question 'first' (2 points): twice 3 is 6"
    assert "'second_answer' is there 2 times" in problems(doubled(mine, "second_answer"))
    assert "was changed" in problems(edited(answered(course), "first", source="assert 1"))
    assert "is not JSON" in problems(b"{")
    assert "is no assignment" in problems(new_notebook())
    assert check(tmp_path / "missing.ipynb") == [f"There is no file {tmp_path / 'missing.ipynb'}."]


def test_commands(mine, tmp_path, capsys):
    here = ["--course", str(mine.root)]
    assert main(["feedback", *here, "tiny"]) == 2
    assert "run `grade` first" in capsys.readouterr().err
    assert main(["grade", *here, "tiny"]) == 2
    assert "run `collect` first" in capsys.readouterr().err
    assert main(["release", *here, "--due", "2026-05-01T14:00+02:00"]) == 0
    capsys.readouterr()
    (tmp_path / "in" / "ada").mkdir(parents=True)
    notebook = edited(answered(mine), "why", source="Because.")
    nbformat.write(notebook, tmp_path / "in" / "ada" / "tiny.ipynb")
    assert main(["collect", *here, "tiny", str(tmp_path / "in")]) == 0
    assert main(["grade", *here, "tiny", "--memory", "3", "--notebook", "60"]) == 0
    told = capsys.readouterr().out
    assert "ada: 4 of 5 points, 1 more wait for a person" in told
    assert "tiny: 1 graded, median 4 of 5 points" in told
    assert main(["feedback", *here, "tiny", "--zip", str(tmp_path / "pages.zip")]) == 0
    told = capsys.readouterr().out
    assert "Warning. The pages of those who wait for you say 0 there: ada" in told
    assert zipfile.ZipFile(tmp_path / "pages.zip").namelist() == ["ada/tiny.html"]
    table = tmp_path / "canvas.csv"
    table.write_text("Student,ID,Section,tiny (9)\nAda,ada,A,\nBen,ben,A,\n")
    back = ["--into", str(table), "--to", str(tmp_path / "back.csv")]
    assert main(["export", *here, "tiny", *back]) == 0
    assert "No marks: Ben\nLeft as it was, waits for you: Ada\n" in capsys.readouterr().out
    assert main(["export", *here, "--to", str(tmp_path / "grades.csv")]) == 0
    assert ",ada,why,,1,4," in (tmp_path / "grades.csv").read_text()


def test_zips_hold_the_release_and_a_note(course, tmp_path):
    (path,) = release_zips(course, tmp_path)
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        assert archive.namelist() == ["tiny/README.txt", "tiny/tiny.ipynb"]
        assert "pip install numpy jupyterlab" in archive.read("tiny/README.txt").decode()
        assert b"HIDDEN" not in archive.read("tiny/tiny.ipynb")
    release_zips(course, tmp_path)
    assert path.read_bytes() == content
