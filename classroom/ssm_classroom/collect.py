"""Collect what was handed in, from a folder or a zip as learning platforms export it.

Whose a file is, its place in the export says, which the platform wrote; nothing inside a student's
own zip can say it. Nobody is merged with somebody else: two that would share a folder of the course
are both left out, by name. Each file that is not used is listed with the reason.
"""

from __future__ import annotations

import json
import shutil
import unicodedata
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict
from datetime import tzinfo
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory

from ssm_classroom.course import ClassroomError, Course
from ssm_classroom.names import printable, same_folder
from ssm_classroom.owners import Owner, export_of
from ssm_classroom.roster import Roster
from ssm_classroom.uploads import File, inside, uploads
from ssm_classroom.versions import Measure, Version

ORIGIN = "origin.json"  # beside a collected notebook: where it came from
UNKNOWN = "Unknown times count as in time. "
HINTS = {
    "Moodle": "Give Moodle's grading worksheet of this assignment with --roster, and the zone of "
    "its times with --zone; Moodle writes the time of your download into the zip.",
    "Blackboard": "Give the zone of Blackboard's times with --zone.",
    "Canvas": "Canvas says who is late and not by how much; a column `time` in a table of yours, "
    "--roster, does.",
    "": "A zip names no zone: give a folder, or a column `time` in a table of yours, --roster.",
}


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
    with TemporaryDirectory(prefix="ssm-") as temporary, uploads(given) as files:
        export = export_of(files, given, name, pattern, roster, where)
        lines, owned = [], defaultdict(list)
        for file in files:
            try:
                owner = export.owner(file)
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
        measure = Measure(course, name, Path(temporary))
        collected: list[Owner] = []
        for _, mine in sorted(owned.items()):
            try:
                line, whose = _student(course, name, mine, measure, export.platform)
            except OSError as error:  # a full disk, a folder that is not ours to change
                line, whose = f"{mine[0][0].student}: NOT COLLECTED, {error}", None
            lines.append(line)
            collected += [whose] if whose else []
    lines += _missing(collected, roster)
    if any(owner.time is None and owner.late is not False for owner in collected):
        lines.append(UNKNOWN + HINTS[export.platform])
    return [printable(line) for line in lines]


def origin(course: Course, name: str, student: str) -> dict[str, str | bool | None]:
    """Return where a submission came from, {} where ``collect`` did not bring it."""
    try:
        return json.loads((course.place("submitted", name, student) / ORIGIN).read_text("utf8"))
    except (OSError, ValueError):
        return {}


def _student(
    course: Course,
    name: str,
    mine: list[tuple[Owner, File]],
    measure: Measure,
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
    elif not best.whole:
        line += f", with {best.cells} of the {len(measure.wanted)} cells of this assignment only"
    unused = [f"{v.shown} ({v.against(best)})" for v in versions if v is not best] + unused
    for version in versions:
        version.path.unlink()
    return line + (f"; not used: {', '.join(unused)}" if unused else ""), best.owner


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
    """Put the notebook that counts into the course folder, whole or not at all."""
    owner = best.owner
    place = course.place("submitted", name, owner.student)
    place.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=".new-", dir=place.parent) as temporary:
        new = Path(temporary, name)
        new.mkdir()
        shutil.copyfile(best.path, new / f"{name}.ipynb")
        if owner.time:
            (new / "timestamp.txt").write_text(f"{owner.time:%Y-%m-%d %H:%M:%S} UTC\n", "utf8")
        known = asdict(owner) | {"platform": platform, "key": _nfc(owner.key), "time": None}
        (new / ORIGIN).write_text(json.dumps(known, indent=1), "utf8")
        if place.exists():
            place.rename(Path(temporary, "old"))
        new.rename(place)


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
