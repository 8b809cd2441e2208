"""Grade a class: run each submission in its sandbox, two at a time, and let nbgrader score it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import nbformat
from nbformat import NotebookNode

from ssm_classroom import sandbox
from ssm_classroom.course import ClassroomError, Course, ask
from ssm_classroom.notebook import UnreadableError, is_test, read, restore
from ssm_classroom.release import is_released, release
from ssm_classroom.sandbox import Limits

VERSION = 1  # of what is written into `executed`; another one grades everything again
GRACE = 60  # seconds that the judge itself may take
NOTHING = "Nothing of it ran."
# nbgrader scores what is in `executed`: the cells are in order and have run, so it does neither.
SCORING: dict[str, Any] = {
    "CourseDirectory": {"submitted_directory": "executed"},
    "Autograde": {
        "sanitize_preprocessors": [
            f"nbgrader.preprocessors.{name}"
            for name in ("OverwriteKernelspec", "OverwriteCells", "CheckCellMetadata")
        ],
        "autograde_preprocessors": [
            f"nbgrader.preprocessors.{name}"
            for name in (
                "LimitOutput",
                "SaveAutoGrades",
                "AssignLatePenalties",
                "CheckCellMetadata",
            )
        ],
    },
}


@dataclass(frozen=True)
class Outcome:
    """What became of one submission; it prints as one line."""

    student: str
    score: float
    possible: float
    by_hand: float
    late: float
    remarks: tuple[str, ...]

    def __str__(self) -> str:
        parts = [f"{self.student}: {self.score:g} of {self.possible:g} points"]
        if self.by_hand:
            parts.append(f"{self.by_hand:g} more wait for a person")
        if self.late:
            parts.append(f"{self.late / 3600:.1f} hours late")
        return ", ".join(parts) + "".join(f"\n    {remark}" for remark in self.remarks)


def grade(
    course: Course,
    name: str,
    *,
    jobs: int = 2,
    limits: Limits | None = None,
    isolated: bool | None = None,
    again: bool = False,
) -> Iterator[Outcome]:
    """Grade what was handed in for an assignment; yield one outcome for each, as they come.

    A submission that is graded, and has not changed since, is not run again: an interrupted run
    goes on where it was, and a second one gives the same marks.

    Parameters
    ----------
    course : Course
        The course folder.
    name : str
        An assignment in it.
    jobs : int
        How many submissions run at one time.
    limits : Limits, optional
        What each may use.
    isolated : bool, optional
        Whether to run them in the sandbox; by default where there is one.
    again : bool
        Run all of them again.

    Raises
    ------
    ClassroomError
        Nothing was handed in, or nbgrader does not accept the source.
    """
    students = course.students("submitted", course.check(name))
    if not students:
        raise ClassroomError(
            f"assignment must be handed in; got no submission of {name!r}: run `collect` first"
        )
    if not is_released(course, name):
        release(course, name)
    limits = limits or Limits()
    isolated = not sandbox.available() if isolated is None else isolated
    work = {student: _job(course, name, student, limits, isolated) for student in students}
    waiting = [s for s in students if again or not _is_done(course, name, s, work[s]["key"])]
    for student in students:
        if student not in waiting:
            yield outcome(course, name, student)
    fonts = _fonts() if waiting else None
    pool = ThreadPoolExecutor(jobs)
    judges: list[subprocess.Popen] = []
    running: dict[Future, str] = {
        pool.submit(run, work[student], fonts, judges): student for student in waiting
    }
    try:
        for future in as_completed(running):
            student = running[future]
            yield _score(course, name, student, work[student], future.result())
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
        for judge in judges:  # none is left, unless somebody interrupted us
            judge.kill()
        pool.shutdown()


def _job(course: Course, name: str, student: str, limits: Limits, isolated: bool) -> dict[str, Any]:
    """Collect what is needed to run one submission, and a key that changes when any of it does."""
    handed = course.place("submitted", name, student)
    job: dict[str, Any] = {
        "version": VERSION,
        "source": json.loads(course.notebook("source", name).read_text("utf8")),
        "limits": asdict(limits),
        "isolated": isolated,
    }
    digest = hashlib.sha256(json.dumps(job, sort_keys=True).encode())
    for path in sorted(p for p in handed.rglob("*") if p.is_file()):
        digest.update(path.name.encode() + path.read_bytes())
    released = read(course.notebook("release", name))
    job["source"] = read(course.notebook("source", name))
    job["given"] = str(course.place("release", name).resolve())
    job["key"] = digest.hexdigest()
    job["restored"], job["remarks"], job["runs"] = _submission(handed, name, released)
    return job


def _submission(
    handed: Path, name: str, released: NotebookNode
) -> tuple[NotebookNode, list[str], bool]:
    """Put a submission in order: the notebook, what was found, whether there is one to run."""
    path = handed / f"{name}.ipynb"
    others = sorted(handed.glob("*.ipynb"))
    remarks = []
    if not path.exists() and len(others) == 1:
        path = others[0]
        remarks.append(f"The file was called {path.name} instead of {name}.ipynb.")
    elif not path.exists():
        found = "several" if others else "no"
        remarks.append(f"There are {found} notebooks, and none called {name}.ipynb. {NOTHING}")
    if path.exists():
        try:
            restored, found_in_it = restore(read(path), released)
            return restored, remarks + found_in_it, True
        except (UnreadableError, OSError) as error:
            remarks.append(f"{error}. {NOTHING}")
    empty, _ = restore(released, released)
    return empty, remarks, False


def run(
    job: dict[str, Any], fonts: Path | None = None, judges: list[subprocess.Popen] | None = None
) -> dict[str, Any]:
    """Run one submission in a process of its own; whatever happens, there is a result.

    The process is in the list ``judges`` while it runs, for those who want to end it.
    """
    if not job["runs"]:
        return _nothing(job, [])
    with TemporaryDirectory(prefix="ssm-", ignore_cleanup_errors=True) as temporary:
        folder = sandbox.prepared(Path(temporary))
        shutil.copytree(job["given"], folder / "given")
        shutil.copytree(job["given"], folder / "home", dirs_exist_ok=True)
        for file in (folder / "home").glob("*.ipynb"):
            file.unlink()
        if fonts is not None:
            (folder / "home" / ".matplotlib").mkdir()
            shutil.copy(fonts, folder / "home" / ".matplotlib")
        (folder / "job.json").write_text(json.dumps(job), "utf8")
        seconds = job["limits"]["notebook"] + GRACE
        reason = _run_judge(folder, seconds, [] if judges is None else judges)
        with suppress(OSError, ValueError):
            result = json.loads((folder / "result.json").read_text("utf8"))
            result["notebook"] = nbformat.from_dict(result["notebook"])
            return result
    return _nothing(job, [reason])


def _run_judge(folder: Path, seconds: float, judges: list[subprocess.Popen]) -> str:
    """Start the judge, wait for it, and say how it ended if it left no result."""
    path = os.pathsep.join([str(sandbox.PACKAGE.parent), os.environ.get("PYTHONPATH", "")])
    environment = {
        **os.environ,
        **{"PYTHONPATH": path, "MPLBACKEND": "Agg", "OPENBLAS_NUM_THREADS": "1"},
        **{"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"},
    }
    with (folder / "log.txt").open("wb") as log:
        judge = subprocess.Popen(
            [sys.executable, "-m", "ssm_classroom.judge", str(folder)],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        judges.append(judge)
        try:
            judge.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"It was ended after {seconds:g} s; no test was judged."
        finally:
            with suppress(ProcessLookupError):
                os.killpg(judge.pid, signal.SIGKILL)
            judge.wait()
            judges.remove(judge)
    words = (folder / "log.txt").read_text("utf8", "replace").strip().splitlines() or ["no word"]
    return f"Judging it ended without a result: {words[-1][:300]}"


def _nothing(job: dict[str, Any], remarks: list[str]) -> dict[str, Any]:
    """Return the result of a submission that did not run: no test passed."""
    text = " ".join([*job["remarks"], *remarks])
    notebook = nbformat.from_dict(job["restored"])
    for cell in filter(is_test, notebook.cells):
        error = nbformat.v4.new_output("error", ename="Failed", evalue=text, traceback=[text])
        cell.outputs = [error]
    return {"notebook": notebook, "remarks": remarks, "tests": {}}


def _score(
    course: Course, name: str, student: str, job: dict[str, Any], result: dict[str, Any]
) -> Outcome:
    """Put a result into ``executed``, whole or not at all, and let nbgrader score it."""
    remarks = [*job["remarks"], *result["remarks"]]
    notebook = result["notebook"]
    if remarks:
        text = "\n".join(["**About this submission**\n", *(f"- {remark}" for remark in remarks)])
        notebook.cells.insert(0, nbformat.v4.new_markdown_cell(text))
    place = course.place("executed", name, student)
    place.parent.mkdir(parents=True, exist_ok=True)
    new = Path(mkdtemp(prefix=".new-", dir=place.parent))
    try:
        nbformat.write(notebook, new / f"{name}.ipynb")
        for file in ("timestamp.txt", "submission_secret.txt"):  # the exchange wants the second
            if (stamp := course.place("submitted", name, student) / file).exists():
                shutil.copy(stamp, new)
        shutil.rmtree(place, ignore_errors=True)
        new.chmod(0o755)
        new.rename(place)
    finally:
        shutil.rmtree(new, ignore_errors=True)
    report = {"remarks": remarks, "tests": result["tests"]}
    try:
        ask(course.nbgrader(**SCORING).autograde, name, student)
        report["key"] = job["key"]
    except ClassroomError as error:
        report["remarks"].append(f"Not scored: {error}")
    unfinished = place / "report.unfinished"
    unfinished.write_text(json.dumps(report, indent=1), "utf8")
    unfinished.rename(place / "report.json")
    return outcome(course, name, student)


def _is_done(course: Course, name: str, student: str, key: str) -> bool:
    """Tell whether this very submission is graded."""
    try:
        report = json.loads((course.place("executed", name, student) / "report.json").read_text())
    except (OSError, ValueError):
        return False
    return report.get("key") == key and course.notebook("autograded", name, student).exists()


def outcome(course: Course, name: str, student: str) -> Outcome:
    """Read from the gradebook, and from the report, what became of a graded submission."""
    report = json.loads((course.place("executed", name, student) / "report.json").read_text("utf8"))
    with course.gradebook() as book:
        submission = book.find_submission(name, student)
        grades = [grade for notebook in submission.notebooks for grade in notebook.grades]
        waiting = sum(grade.max_score for grade in grades if grade.needs_manual_grade)
        return Outcome(
            student,
            submission.score,
            submission.max_score,
            waiting,
            submission.total_seconds_late,
            tuple(report["remarks"]),
        )


def _fonts() -> Path | None:
    """Find Matplotlib's list of fonts, which each sandbox would else take seconds to make."""
    with suppress(ImportError):
        import matplotlib
        import matplotlib.font_manager

        lists = sorted(Path(matplotlib.get_cachedir()).glob("fontlist-*.json"))
        return lists[-1] if lists else None
    return None
