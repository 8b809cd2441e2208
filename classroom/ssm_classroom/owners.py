"""Whose a file is that was handed in, and since when: what its place in the export says.

The platform wrote the first part of a name, and a student the rest; only the first part counts.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from pathlib import Path

from ssm_classroom.course import ClassroomError
from ssm_classroom.names import folder_name
from ssm_classroom.roster import Person, Roster
from ssm_classroom.times import instant
from ssm_classroom.uploads import File

# How platforms name what students hand in. `prefix` is what they expect back before a file's name.
PLATFORMS = {
    "Moodle": r"(?P<prefix>(?P<name>[^/_]+)_(?P<key>\d+)_assignsubmission_[a-z]+_?/?)(?P<file>.+)",
    "Blackboard": r"(?P<prefix>(?P<head>[^/]+?)_attempt_(?P<time>\d{4}(?:-\d\d){5}))_?(?P<file>.*)",
    "Canvas": r"(?P<prefix>(?:anon_(?P<anonymous>[0-9A-Za-z]{5})|(?P<name>[^/_]+))(?P<late>_LATE)?"
    r"(?(name)_(?P<key>\d+))_\d+_)(?P<file>[^/]+)",
}
FOLDERS = r"(?P<prefix>(?P<key>[^/]+)/)(?P<file>.+)"
CANVAS_USER = re.compile(r"([^/_]+)(?:_LATE)?_(\d+)_\d+_")


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
class Export:
    """What a platform gave: its name, "" for folders, and how to read the names in it."""

    platform: str
    top: str  # the folder around it all, with its /
    expression: re.Pattern[str]
    roster: Roster | None
    where: tzinfo | None
    assignment: str

    def owner(self, file: File) -> Owner:
        """Tell whose a file is; a ClassroomError says why nobody's."""
        match = self.expression.fullmatch(file.path.removeprefix(self.top))
        if match is None or file.path.startswith("__MACOSX/"):
            raise ClassroomError(
                "of the system" if file.is_of_the_system else "no student in its name"
            )
        groups = match.groupdict()
        key = groups.get("key") or groups.get("anonymous") or groups.get("student") or ""
        shown = groups.get("name") or ""
        if self.platform == "Blackboard":
            key = _username(groups["head"], self.roster, self.assignment)
        if self.platform == "Canvas" and self.roster:
            shown, key = _only_one(match.string, self.roster) or (shown, key)
        is_numbered = self.platform in ("Moodle", "Canvas")
        derived = folder_name(f"{shown or 'anon'}_{key}" if is_numbered else key)
        person = self.roster.find(key, "" if self.platform else derived) if self.roster else None
        student = (person.student if person else "") or derived
        if not student:
            raise ClassroomError("no letters in the student's name, or too many")
        return Owner(
            student,
            key,
            person.name if person else shown,
            groups.get("prefix") or "",
            groups.get("file") or file.name,
            self._time(file, groups.get("time"), person),
            bool(groups["late"]) if self.platform == "Canvas" else None,
        )

    def _time(self, file: File, text: str | None, person: Person | None) -> datetime | None:
        """Tell when: only what the platform, the table or this machine's disk says."""
        if person and person.time:
            return person.time
        if text:
            return instant(text, self.where)
        return file.date.replace(tzinfo=UTC) if file.is_here and not self.platform else None


def export_of(
    files: list[File],
    given: Path,
    assignment: str,
    pattern: str | None = None,
    roster: Roster | None = None,
    where: tzinfo | None = None,
) -> Export:
    """Find out what was given.

    Raises
    ------
    ClassroomError
        The pattern or the roster does not fit, or one folder may be a student or hold them all.
    """
    if pattern:
        return Export("", "", _compiled(pattern), roster, where, assignment)
    platform, top = _platform(files, given, roster)
    if platform and roster and roster.kind not in (platform, "own"):
        raise ClassroomError(
            f"roster must be of the export's platform, {platform}; got {roster.kind}'s"
        )
    form = re.compile(PLATFORMS.get(platform, FOLDERS))
    return Export(platform, top, form, roster, where, assignment)


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


def _platform(files: list[File], given: Path, roster: Roster | None) -> tuple[str, str]:
    """Tell which platform made an export, and the folder around it; "" is none.

    Most of the names on top decide, so that what one student calls a file does not.
    """
    paths = [file.path for file in files if not file.is_of_the_system]
    top = paths[0].partition("/")[0] if paths else ""
    is_one = bool(paths) and all(path.startswith(f"{top}/") for path in paths)
    kind = _kind(paths)
    if kind or not is_one or _is_known(top, roster):
        return kind, ""
    below = [path.partition("/")[2] for path in paths]
    names = {path.partition("/")[0] for path in below}
    inner = _kind(below)
    if top in (given.stem, "submitted") or any(_is_known(name, roster) for name in names):
        return inner, f"{top}/"
    if inner and roster and roster.kind == inner:
        return inner, f"{top}/"
    if inner or (len(names) > 1 and all("/" in path for path in below)):
        raise ClassroomError(
            "given must be an export, or hold one folder for each student; got one folder, "
            f"{top!r}, which may be a student or hold them all: give what is in it, or the "
            "class with --roster"
        )
    return "", ""


def _is_known(name: str, roster: Roster | None) -> bool:
    """Whether a folder has the name of somebody in the class."""
    return roster is not None and roster.find(name, folder_name(name)) is not None


def _kind(paths: list[str]) -> str:
    """Return the platform that most of the paths are named by, or ""."""
    count = {
        platform: sum(bool(re.fullmatch(form, path)) for path in paths)
        for platform, form in PLATFORMS.items()
    }
    best = max(count, key=lambda platform: count[platform])
    return best if 2 * count[best] > len(paths) else ""


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
