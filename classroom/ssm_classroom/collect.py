"""Collect what was handed in, from a folder or a zip as learning platforms export it.

Whose a file is, its place in the export says, which the platform wrote; nothing inside a student's
own zip can say it. Nobody is merged with somebody else: two that would share a folder of the course
are both left out, by name. Each file that is not used is listed with the reason.
"""

from __future__ import annotations

import json
import re
import shutil
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from nbformat import NotebookNode

from ssm_classroom.course import ClassroomError, Course
from ssm_classroom.names import folder_name, printable, same_folder
from ssm_classroom.notebook import UnreadableError, grade_id, is_answer, read
from ssm_classroom.roster import Person, Roster
from ssm_classroom.times import instant
from ssm_classroom.uploads import File, inside, uploads

ORIGIN = "origin.json"  # beside a collected notebook: where it came from
# How platforms name what students hand in. `prefix` is what they expect back before a file's name.
PLATFORMS = {
    "Moodle": r"(?P<prefix>(?P<name>[^/_]+)_(?P<key>\d+)_assignsubmission_[a-z]+_?/?)(?P<file>.+)",
    "Blackboard": r"(?P<prefix>(?P<head>[^/]+?)_attempt_(?P<time>\d{4}(?:-\d\d){5}))_?(?P<file>.*)",
    "Canvas": r"(?P<prefix>(?:anon_(?P<anonymous>[0-9A-Za-z]{5})|(?P<name>[^/_]+))(?P<late>_LATE)?"
    r"(?(name)_(?P<key>\d+))_\d+_)(?P<file>[^/]+)",
}
FOLDERS = r"(?P<prefix>(?P<key>[^/]+)/)(?P<file>.+)"
CANVAS_USER = re.compile(r"([^/_]+)(?:_LATE)?_(\d+)_\d+_")
UNKNOWN = "Unknown times count as in time. "
HINTS = {
    "Moodle": "Give Moodle's grading worksheet of this assignment with --roster, and the zone of "
    "its times with --zone; Moodle writes the time of your download into the zip.",
    "Blackboard": "Give the zone of Blackboard's times with --zone.",
    "Canvas": "Canvas says who is late and not by how much; a column `time` in a table of yours, "
    "--roster, does.",
    "": "A zip names no zone: give a folder, or a column `time` in a table of yours, --roster.",
}


@dataclass(frozen=True)
class Owner:
    """Whose a file is, as its place in the export says, and when it was handed in."""

    student: str
    key: str
    name: str
    prefix: str
    file: str
    time: datetime | None = None
    late: bool | None = None  # the verdict of the platform, if it has one


@dataclass(frozen=True)
class Version:
    """A notebook that one student handed in."""

    path: Path
    shown: str  # what the student called it
    date: datetime
    owner: Owner
    cells: int  # of this assignment; -1 if it cannot be read
    whole: bool  # it is this assignment, not another one that shares a few cells
    touched: bool  # an answer differs from the release

    @property
    def rank(self) -> tuple[object, ...]:
        """Order the versions of one student: the newest that is the assignment, and begun."""
        again = re.search(r"-(\d+)\.ipynb$", self.shown)  # Canvas adds -1, -2
        time = self.owner.time or datetime.min.replace(tzinfo=UTC)
        newest = (time, int(again[1]) if again else 0, self.date, self.shown)
        return (self.whole, min(self.cells, 1), self.touched, *newest)


def collect(
    course: Course,
    name: str,
    given: Path,
    pattern: str | None = None,
    roster: Roster | None = None,
    where: tzinfo | None = None,
) -> list[str]:
    """Put what was handed in for an assignment into the course folder; say what was done.

    Of several notebooks of one student the newest counts, of those that are this assignment and
    are not just as released. The names of files matter only for finding the student.

    Parameters
    ----------
    course : Course
        The course folder.
    name : str
        An assignment in it.
    given : Path
        A folder or a zip.
    pattern : str, optional
        A regular expression for paths in it, with groups ``student``, and perhaps ``time`` and
        ``file``; by default the export of Moodle, Canvas or Blackboard, or a folder for each
        student.
    roster : Roster, optional
        The class; with it, whoever handed in nothing is named.
    where : tzinfo, optional
        The zone of times that name none.

    Returns
    -------
    list of str
        A line for each student, for each file without one, and for what is missing.

    Raises
    ------
    ClassroomError
        ``given`` is not there, is no zip, or holds nothing of a student; ``pattern`` is wrong.
    """
    course.check(name)
    expression = _compiled(pattern) if pattern else None
    with TemporaryDirectory(prefix="ssm-") as temporary, uploads(given) as files:
        platform, top = _platform(files, given, expression, roster)
        lines, owned = [], defaultdict(list)
        for file in files:
            try:
                owner = _owner(file, platform, top, expression, roster, where, name)
            except ClassroomError as error:
                lines.append(f"Left out, {error}: {file.path}")
                continue
            owned[same_folder(owner.student)].append((owner, file))
        if not owned:
            raise ClassroomError(
                f"given must hold a student's notebook; got none in {given}: give it as Moodle, "
                "Canvas or Blackboard export it, or with one folder for each student, or say "
                "--pattern"
            )
        measure = _Measure(course, name, Path(temporary))
        collected: list[Owner] = []
        for _, mine in sorted(owned.items()):
            line, whose = _student(course, name, mine, measure, platform)
            lines.append(line)
            collected += [whose] if whose else []
    lines += _missing(collected, roster)
    if any(owner.time is None and owner.late is not False for owner in collected):
        lines.append(UNKNOWN + HINTS[platform])
    return [printable(line) for line in lines]


def origin(course: Course, name: str, student: str) -> dict[str, str | bool | None]:
    """Return where a submission came from, {} where ``collect`` did not bring it."""
    try:
        return json.loads((course.place("submitted", name, student) / ORIGIN).read_text("utf8"))
    except (OSError, ValueError):
        return {}


def _compiled(pattern: str) -> re.Pattern[str]:
    """Compile what the instructor gave as --pattern."""
    try:
        expression = re.compile(pattern)
    except re.error as error:
        raise ClassroomError(
            f"pattern must be a regular expression; got {pattern!r} ({error})"
        ) from None
    if "student" not in expression.groupindex:
        raise ClassroomError(
            f"pattern must have a group (?P<student>...); got {pattern!r}: mark with it the part "
            "of a path that names the student"
        )
    return expression


def _platform(
    files: list[File], given: Path, expression: re.Pattern[str] | None, roster: Roster | None
) -> tuple[str, str]:
    """Tell which platform made an export, and the folder around it; "" is none.

    Most of the names on top decide, so that what one student calls a file does not.
    """
    paths = [file.path for file in files if not file.is_of_the_system]
    if expression is not None or not paths:
        return "", ""
    tops = {path.partition("/")[0] for path in paths}
    (top,) = tops if len(tops) == 1 and all("/" in path for path in paths) else ("",)
    kind = _kind(paths)
    if not kind and top and not (roster and roster.find(top, folder_name(top))):
        below = [path.partition("/")[2] for path in paths]
        names = {path.partition("/")[0] for path in below}
        inner = _kind(below)
        if top in (given.stem, "submitted") or (
            roster and (roster.kind == inner or any(roster.find(n, folder_name(n)) for n in names))
        ):
            kind, top = inner, f"{top}/"
        elif inner or (len(names) > 1 and all("/" in path for path in below)):
            raise ClassroomError(
                "given must be an export, or hold one folder for each student; got one folder, "
                f"{top!r}, which may be a student or hold them all: give what is in it, or the "
                "class with --roster"
            )
        else:
            top = ""
    else:
        top = ""
    if kind and roster and roster.kind not in (kind, "own"):
        raise ClassroomError(
            f"roster must be of the export's platform, {kind}; got {roster.kind}'s"
        )
    return kind, top


def _kind(paths: list[str]) -> str:
    """Return the platform that most of the paths are named by, or ""."""
    count = {
        platform: sum(bool(re.fullmatch(form, path)) for path in paths)
        for platform, form in PLATFORMS.items()
    }
    best = max(count, key=lambda platform: count[platform])
    return best if 2 * count[best] > len(paths) else ""


def _owner(
    file: File,
    platform: str,
    top: str,
    expression: re.Pattern[str] | None,
    roster: Roster | None,
    where: tzinfo | None,
    assignment: str,
) -> Owner:
    """Tell whose a file is; a ClassroomError says why nobody's."""
    if PurePosixPath(file.path).parts[:1] == ("__MACOSX",):
        raise ClassroomError("of the system")
    text = file.path.removeprefix(top)
    match = (expression or re.compile(PLATFORMS.get(platform, FOLDERS))).fullmatch(text)
    if match is None:
        raise ClassroomError("of the system" if file.is_of_the_system else "no student in its name")
    groups = match.groupdict()
    key = groups.get("key") or groups.get("anonymous") or groups.get("student") or ""
    shown, rest = groups.get("name") or "", groups.get("file") or file.name
    if platform == "Blackboard":
        key = shown = _username(groups["head"], roster, assignment)
    if platform == "Canvas" and roster:
        shown, key = _only_one(text, roster) or (shown, key)
    derived = folder_name(f"{shown or 'anon'}_{key}" if platform in ("Moodle", "Canvas") else key)
    person = roster.find(key, "" if platform else derived) if roster else None
    student = (person.student if person else "") or derived
    if not student:
        raise ClassroomError("no letters in the student's name, or too many")
    late = bool(groups["late"]) if platform == "Canvas" else None
    time = _time(file, groups, platform, person, where)
    prefix = groups.get("prefix") or ""
    return Owner(student, key, person.name if person else shown, prefix, rest, time, late)


def _time(
    file: File,
    groups: dict[str, str],
    platform: str,
    person: Person | None,
    where: tzinfo | None,
) -> datetime | None:
    """Tell when a file was handed in: only what the platform, the table or this machine says."""
    if person and person.time:
        return person.time
    if groups.get("time"):
        return instant(groups["time"], where)
    if not platform and file.is_here:
        return file.date.replace(tzinfo=UTC)
    return None


def _username(head: str, roster: Roster | None, assignment: str) -> str:
    """Take Blackboard's user from "title_user"; both may have a _ in them."""
    if roster:
        found = [p.key for p in roster.people if head.endswith(f"_{p.key}")]
        if found:
            return max(found, key=len)
    if head.startswith(f"{assignment}_"):
        return head.removeprefix(f"{assignment}_")
    return head.partition("_")[2] or head


def _only_one(text: str, roster: Roster) -> tuple[str, str] | None:
    """Take from Canvas's "name_user_file_..." the one who is in the class, if there is one.

    Where students may change their names, one may be called like another with a user's number.
    """
    known = [found for found in CANVAS_USER.findall(text) if roster.find(found[1], "")]
    if len(known) > 1:
        raise ClassroomError("two students of the class could stand in its name")
    return known[0] if known else None


class _Measure:
    """Reads the notebooks of students, and compares them with the assignment."""

    def __init__(self, course: Course, name: str, folder: Path) -> None:
        self.wanted = {grade_id(c) for c in read(course.notebook("source", name)).cells} - {None}
        self.folder = folder
        self.count = 0
        release = course.notebook("release", name)
        cells = read(release).cells if release.exists() else []
        self.given = {cell.source.strip() for cell in cells} | {""}

    def version(self, file: File, shown: str, owner: Owner) -> Version:
        """Read one file; a ClassroomError says why it is no version."""
        if file.is_of_the_system:
            raise ClassroomError("of the system")
        name = file.name.lower()
        is_named = ".ipynb" in name
        if not is_named and PurePosixPath(name).suffix not in {".json", ".txt", ""}:
            raise ClassroomError(file.trouble or "no notebook")
        content = file.content()
        self.count += 1
        path = self.folder / f"{self.count}.ipynb"
        path.write_bytes(content)
        try:
            cells = read(path).cells
        except (UnreadableError, OSError):
            if not is_named:
                path.unlink()
                raise ClassroomError("no notebook") from None
            return Version(path, shown, file.date, owner, -1, False, False)
        found = {grade_id(cell) for cell in cells} & self.wanted
        if not is_named and not found:
            raise ClassroomError("not this assignment")
        touched = any(c.source.strip() not in self.given for c in cells if _is_written(c))
        whole = 2 * len(found) >= len(self.wanted)
        return Version(path, shown, file.date, owner, len(found), whole, touched)


def _is_written(cell: NotebookNode) -> bool:
    """Whether a student may have written a cell: an answer, or one without a name."""
    return is_answer(cell) or grade_id(cell) is None


def _student(
    course: Course,
    name: str,
    mine: list[tuple[Owner, File]],
    measure: _Measure,
    platform: str,
) -> tuple[str, Owner | None]:
    """Collect from one student, or say why not."""
    student = mine[0][0].student
    keys = {owner.key for owner, _ in mine}
    taken = {same_folder(other): other for other in course.students("submitted", name)}
    before = str(origin(course, name, taken.get(same_folder(student), student)).get("key", ""))
    if before and before not in map(_nfc, keys):
        keys.add(before)
    if len(keys) > 1:
        both = " and ".join(map(repr, sorted(keys)))
        return f"{student}: NOT COLLECTED, it would be the name of {both}: change one", None
    versions, unused = [], []
    for owner, upload in mine:
        for file in inside(upload):
            shown = owner.file + file.path.removeprefix(upload.path)
            try:
                versions.append(measure.version(file, shown, owner))
            except ClassroomError as error:
                unused.append(f"{shown} ({error})")
    if not versions:
        return f"{student}: NO NOTEBOOK, handed in {', '.join(unused)}", None
    best = max(versions, key=lambda version: version.rank)
    _keep(course, name, best, platform)
    line = f"{student}: {_when(best.owner)}"
    if (called := PurePosixPath(best.shown).name) != f"{name}.ipynb":
        line += f", called {called}"
    if best.cells <= 0:
        line += ", which is no notebook of this assignment"
    unused = [f"{v.shown} ({_reason(v, best)})" for v in versions if v is not best] + unused
    for version in versions:
        version.path.unlink()
    return line + (f"; not used: {', '.join(unused)}" if unused else ""), best.owner


def _reason(version: Version, best: Version) -> str:
    """Say why another version counts."""
    if version.cells < 0:
        return "cannot be read"
    if not version.whole and best.whole:
        return "not this assignment, or little of it"
    return "as released" if best.touched and not version.touched else "an older version"


def _nfc(text: str) -> str:
    return unicodedata.normalize("NFC", text)


def _when(owner: Owner) -> str:
    """Say when it was handed in, as far as that is known."""
    if owner.time:
        return f"handed in {owner.time:%Y-%m-%d %H:%M} UTC"
    if owner.late is None:
        return "handed in, time unknown"
    return "handed in LATE, says Canvas" if owner.late else "handed in in time, says Canvas"


def _keep(course: Course, name: str, best: Version, platform: str) -> None:
    """Put the notebook that counts into the course folder, with its time if that is known."""
    owner = best.owner
    place = course.place("submitted", name, owner.student)
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    shutil.copyfile(best.path, place / f"{name}.ipynb")
    if owner.time:
        (place / "timestamp.txt").write_text(f"{owner.time:%Y-%m-%d %H:%M:%S} UTC\n", "utf8")
    known = asdict(owner) | {"platform": platform, "key": _nfc(owner.key), "time": None}
    (place / ORIGIN).write_text(json.dumps(known, indent=1), "utf8")


def _missing(collected: list[Owner], roster: Roster | None) -> Iterator[str]:
    """Compare who handed in with the class."""
    if roster is None:
        return
    there = {id(roster.find(owner.key, owner.student)) for owner in collected}
    if strangers := [o.student for o in collected if not roster.find(o.key, o.student)]:
        yield f"Not in the roster: {', '.join(strangers)}"
    if absent := [p.name or p.student or p.key for p in roster.people if id(p) not in there]:
        yield f"No submission from: {', '.join(absent)}"
    else:
        yield "Everybody in the roster handed in."
