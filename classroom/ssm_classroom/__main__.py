"""The command line of the classroom: ``python -m ssm_classroom --help``."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from tqdm import tqdm

from ssm_classroom import sandbox
from ssm_classroom.check import check
from ssm_classroom.collect import collect
from ssm_classroom.course import ClassroomError, Course
from ssm_classroom.export import export, fill, write
from ssm_classroom.extend import extend
from ssm_classroom.feedback import feedback
from ssm_classroom.grade import grade
from ssm_classroom.pack import pack
from ssm_classroom.release import release, release_solutions, release_zips
from ssm_classroom.report import report, waiting
from ssm_classroom.roster import read_roster
from ssm_classroom.similarity import similarity
from ssm_classroom.start import start
from ssm_classroom.times import deadline, zone


def parser() -> argparse.ArgumentParser:
    """Describe the commands; each leaves the function that does it in ``run``."""
    main = argparse.ArgumentParser(
        prog="python -m ssm_classroom",
        description="Release, check, collect, grade and give back assignments.",
    )
    commands = main.add_subparsers(metavar="COMMAND", required=True)

    def add(
        name: str, run: Callable[[argparse.Namespace], int], text: str, *, course: bool = True
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=text, description=text)
        command.set_defaults(run=run)
        if course:
            command.add_argument("--course", type=Path, default=_course(), help="course folder")
        return command

    command = add("start", run_start, "copy the sources into a private course folder")
    command.add_argument("folder", type=Path, help="a new one, outside of what others can read")
    command.add_argument("--term", type=int, help="as 2027: other numbers in tests and figures")

    command = add("release", run_release, "write the students' versions")
    command.add_argument("assignments", nargs="*", help="by default all")
    command.add_argument("--due", type=_time, help="as 2026-11-30T23:59+01:00; a day means its end")
    command.add_argument("--zip", type=Path, metavar="FOLDER", help="only write zips to FOLDER")
    text = "with solutions, without hidden tests, after the deadline"
    command.add_argument("--solutions", action="store_true", help=text)

    text = "check your own notebook before you hand it in"
    command = add("check", run_check, text, course=False)
    command.add_argument("notebook", type=Path)

    command = add("collect", run_collect, "take over what was handed in")
    command.add_argument("assignment")
    command.add_argument("given", type=Path, help="a folder or a zip of a learning platform")
    command.add_argument("--pattern", help="regular expression with (?P<student>...), for others")
    command.add_argument("--roster", type=Path, help="the class: the platform's table, or yours")
    command.add_argument("--zone", help="of times that name none, as Europe/Berlin or +01:00")

    command = add("grade", run_grade, "run and score what was handed in")
    command.add_argument("assignment")
    command.add_argument("--jobs", type=int, default=2, help="at one time; by default 2")
    command.add_argument("--again", action="store_true", help="also what is graded already")
    command.add_argument("--cell", type=float, metavar="S", help="seconds for a cell")
    command.add_argument("--notebook", type=float, metavar="S", help="seconds for a notebook")
    command.add_argument("--memory", type=float, metavar="GiB", help="for a process")

    command = add("report", run_report, "say how grading came out, and what waits")
    command.add_argument("assignment")

    command = add("similarity", run_similarity, "list the submissions that are alike")
    command.add_argument("assignment")
    text = "part that two must share to be listed; by default 0.5"
    command.add_argument("--least", type=float, default=0.5, metavar="PART", help=text)

    command = add("feedback", run_feedback, "write the students' pages")
    command.add_argument("assignment")

    command.add_argument("--zip", type=Path, metavar="FILE", help="and pack them for the platform")

    command = add("extend", run_extend, "give one student more time")
    command.add_argument("assignment")
    command.add_argument("student", help="as `collect` prints the name")
    command.add_argument("until", type=_time, help="as 2026-12-02; a day means its end")

    command = add("export", run_export, "write the points as CSV")
    command.add_argument("assignments", nargs="*", help="by default all")
    command.add_argument("--to", type=Path, help="file; by default the terminal")
    text = "fill in a table of Moodle, Canvas or Blackboard, of one assignment"
    command.add_argument("--into", type=Path, metavar="TABLE", help=text)
    command.add_argument("--column", help="its column there, or a part of the name")
    return main


def _course() -> Path:
    """Choose the course folder: this one, if it is one, or else that of the repository."""
    here = Path()
    return here if (here / "source").is_dir() else Path("book", "assignments")


def _time(text: str) -> datetime:
    """Read a deadline as nbgrader wants it, in UTC without saying so."""
    return deadline(text).replace(tzinfo=None)


def run_start(args: argparse.Namespace) -> int:
    """Make a course folder."""
    names = start(Course(args.course), args.folder, args.term)
    print(f"{args.folder} holds {', '.join(names)}. Work there: cd {args.folder}")
    return 0


def run_release(args: argparse.Namespace) -> int:
    """Write the students' versions, or zips of them."""
    course = Course(args.course)
    if args.zip:
        for path in release_zips(course, args.zip):
            print(path)
        return 0
    for name in args.assignments or course.assignments:
        done = (
            release_solutions(course, name) if args.solutions else release(course, name, args.due)
        )
        print(done)
    return 0


def run_check(args: argparse.Namespace) -> int:
    """Check a notebook; the exit status says whether something is wrong."""
    problems = check(args.notebook)
    for problem in problems:
        print(f"- {problem}")
    if not problems:
        print("The public checks pass. The hidden ones use other sizes and other numbers.")
    return int(bool(problems))


def run_collect(args: argparse.Namespace) -> int:
    """Collect, and say what was done with each file."""
    where = zone(args.zone) if args.zone else None
    roster = read_roster(args.roster, where) if args.roster else None
    course = Course(args.course)
    for line in collect(course, args.assignment, args.given, args.pattern, roster, where):
        print(line)
    return 0


def run_grade(args: argparse.Namespace) -> int:
    """Grade, with a bar over the submissions, and one line or more for each."""
    if sys.platform == "win32":
        raise ClassroomError("grade must run on Linux or macOS; got Windows: run it in WSL")
    course = Course(args.course)
    given = {key: getattr(args, key) for key in ("cell", "notebook") if getattr(args, key)}
    if args.memory:
        given["memory"] = int(args.memory * 2**30)
    limits = sandbox.Limits(**given)
    if warning := sandbox.warning():
        print(f"Warning. {warning}", file=sys.stderr)
    count = len(course.students("submitted", course.check(args.assignment)))
    outcomes = grade(course, args.assignment, jobs=args.jobs, limits=limits, again=args.again)
    with tqdm(total=count, unit="submission") as bar:
        for outcome in outcomes:
            bar.write(str(outcome))
            bar.update()
    print(*report(course, args.assignment), sep="\n")
    return 0


def run_report(args: argparse.Namespace) -> int:
    """Say how grading came out."""
    print(*report(Course(args.course), args.assignment), sep="\n")
    return 0


def run_similarity(args: argparse.Namespace) -> int:
    """List the submissions that are alike."""
    found = similarity(Course(args.course), args.assignment, args.least)
    print(*map(str, found), sep="\n")
    print(f"{len(found)} pairs to look at")
    return 0


def run_feedback(args: argparse.Namespace) -> int:
    """Write the pages of all students who are graded."""
    course = Course(args.course)
    students = course.students("autograded", course.check(args.assignment))
    if not students:
        raise ClassroomError(
            f"assignment must be graded; got no marks for {args.assignment!r}: run `grade` first"
        )
    for student in tqdm(students, unit="page"):
        tqdm.write(str(feedback(course, args.assignment, student)))
    if left := waiting(course, args.assignment):
        print(f"Warning. The pages of those who wait for you say 0 there: {', '.join(left)}")
    if args.zip:
        print(*pack(course, args.assignment, args.zip), sep="\n")
    return 0


def run_export(args: argparse.Namespace) -> int:
    """Write the table of points."""
    course = Course(args.course)
    names = [course.check(name) for name in args.assignments or course.assignments]
    if args.into:
        return _fill(course, names, args)
    rows = export(course, names)
    if args.to is None:
        csv.writer(sys.stdout, lineterminator="\n").writerows(rows)
        return 0
    write(args.to, rows)
    print(f"{len(rows) - 1} rows in {args.to}")
    return 0


def _fill(course: Course, names: list[str], args: argparse.Namespace) -> int:
    """Write the points of one assignment into the table of a platform."""
    if len(args.assignments) != 1 or args.to is None:
        raise ClassroomError("export --into must have one assignment and --to FILE; got other ones")
    table = read_roster(args.into)
    rows, notes = fill(course, names[0], table, args.column)
    write(args.to, rows, table)
    print(*notes, f"{args.to} is for {table.kind}", sep="\n")
    return 0


def run_extend(args: argparse.Namespace) -> int:
    """Set the deadline of one student."""
    print(extend(Course(args.course), args.assignment, args.student, args.until))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run one command; what a person has to put right is one sentence, and status 2."""
    args = parser().parse_args(argv)
    try:
        return args.run(args)
    except ClassroomError as error:
        print(f"{error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted. The same command goes on from here.", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
