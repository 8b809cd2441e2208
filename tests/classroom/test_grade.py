"""Grading goes on after an interruption, and reports what goes wrong on our side."""

from __future__ import annotations

import subprocess
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from ssm_classroom import grade, sandbox
from ssm_classroom.release import release
from tiny import FIRST, LIMITS, QUIET, WRONG, answered, hand_in, needs_sandbox, questions

pytestmark = QUIET


def test_interrupted_run_goes_on_and_grading_twice_gives_the_same(mine):
    release(mine, "tiny", due=datetime(2026, 5, 1, 12))
    for student, first in (("a", FIRST), ("b", WRONG)):
        hand_in(mine, student, answered(mine, first))
    stamp = mine.place("submitted", "tiny", "b") / "timestamp.txt"
    stamp.write_text("2026-05-01 13:00:00 UTC\n")
    run = grade.grade(mine, "tiny", jobs=1, limits=LIMITS)
    first = next(run)
    run.close()  # what an interruption does
    report = mine.place("executed", "tiny", first.student) / "report.json"
    written = report.stat().st_mtime_ns
    outcomes = {one.student: one for one in grade.grade(mine, "tiny", limits=LIMITS)}
    assert report.stat().st_mtime_ns == written
    assert {s: o.score for s, o in outcomes.items()} == {"a": 4, "b": 2}
    assert outcomes["b"].late == 3600
    assert outcomes["a"].late == 0
    again = {o.student: o for o in grade.grade(mine, "tiny", limits=LIMITS, again=True)}
    assert again == outcomes
    assert report.stat().st_mtime_ns > written
    hand_in(mine, "b", answered(mine))  # handed in once more
    assert {o.score for o in grade.grade(mine, "tiny", limits=LIMITS)} == {4}


def test_without_a_sandbox_it_grades_and_warns(course, monkeypatch):
    hand_in(course, "right", answered(course))
    job = grade._job(course, "tiny", "right", LIMITS, False)
    assert all(test["passed"] for test in grade.run(job)["tests"].values())
    monkeypatch.setattr(sandbox, "available", lambda: "a reason")
    assert "(a reason): the submissions run as ordinary processes" in sandbox.warning()


def test_a_judge_that_dies_is_reported(course, monkeypatch):
    hand_in(course, "right", answered(course))
    monkeypatch.setattr(grade, "GRACE", -LIMITS.notebook + 0.05)
    result = grade.run(grade._job(course, "tiny", "right", LIMITS, False))
    assert "It was ended after 0.05 s" in result["remarks"][0]
    job = grade._job(course, "tiny", "right", LIMITS, False)
    monkeypatch.setattr(grade, "GRACE", 60)
    result = grade.run({**job, "limits": {**job["limits"], "unheard_of": 1}})
    assert "Judging it ended without a result: TypeError" in result["remarks"][0]
    assert result["tests"] == {}
    assert all(one.outputs[0].output_type == "error" for one in questions(result["notebook"]))


def test_the_gradebook_knows_its_version(course, nbgraders_version, tmp_path, monkeypatch):
    """nbgrader starts a program by its name to ask, also where the environment is not active."""
    from nbgrader import api

    (tmp_path / "rfc3987_syntax.py").write_text("raise ImportError")  # the slow part of it
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("PATH", "/usr/bin:/bin")
    with course.gradebook():
        pass
    assert nbgraders_version() == api.get_alembic_version()


@needs_sandbox
def test_an_installed_library_is_not_shown(monkeypatch):
    """Nothing of ssmlab, which holds answers, is in the sandbox, wherever pip has put it."""
    with TemporaryDirectory(dir="/var/tmp") as python, TemporaryDirectory() as folder:
        library = Path(python, "site-packages", "ssmlab")
        library.mkdir(parents=True)
        (library / "discretize.py").write_text("def zoh(): ...")
        (library.parent / "other.py").write_text("")
        Path(python).chmod(0o755)
        pythons = sandbox._pythons()
        monkeypatch.setattr(sandbox, "_pythons", lambda: [*pythons, Path(python)])
        monkeypatch.syspath_prepend(library.parent)
        look = ["find", python, "/lab"]
        words = sandbox._isolate(sandbox.prepared(Path(folder)), look, LIMITS)
        shown = subprocess.run(words, capture_output=True, text=True).stdout.split()
    assert {str(library.parent / "other.py"), "/lab/ssm_classroom/remote.py"} <= set(shown)
    assert not [path for path in shown if "ssmlab/" in path]
