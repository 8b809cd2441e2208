"""Times, as people and learning platforms write them: an instant, or unknown."""

from __future__ import annotations

import re
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta, timezone, tzinfo
from zoneinfo import ZoneInfo

from ssm_classroom.course import ClassroomError

# Moodle's worksheet and Blackboard's names of files, without the day of the week.
FORMATS = (
    "%d %B %Y, %I:%M %p",
    "%d %B %Y, %H:%M",
    "%d %B %Y %H:%M:%S",
    "%B %d, %Y, %I:%M %p",
    "%Y-%m-%d-%H-%M-%S",
)


def zone(text: str) -> tzinfo:
    """Return a zone by its name, or by its offset.

    Raises
    ------
    ClassroomError
        It is neither.

    Examples
    --------
    >>> zone("Europe/Berlin"), zone("+01:00")
    (zoneinfo.ZoneInfo(key='Europe/Berlin'), datetime.timezone(datetime.timedelta(seconds=3600)))
    """
    if match := re.fullmatch(r"([+-])(\d\d):?(\d\d)", text):
        offset = timedelta(hours=int(match[2]), minutes=int(match[3]))
        with suppress(ValueError):
            return timezone(-offset if match[1] == "-" else offset)
    with suppress(Exception):  # zoneinfo fails in many ways on what is no name
        return ZoneInfo(text)
    raise ClassroomError(
        f"zone must be a name such as Europe/Berlin or an offset such as +01:00; got {text!r}"
    )


def instant(text: str, where: tzinfo | None) -> datetime | None:
    """Read a time that names its zone, or one of the zone ``where``; return it in UTC, or None.

    A number alone is never taken for a month: 11/12/2026 is two days, and hence no time.

    Examples
    --------
    >>> print(instant("Monday, 30 November 2026, 10:15 PM", zone("Europe/Berlin")))
    2026-11-30 21:15:00+00:00
    >>> print(instant("2026-11-30T22:15:00+01:00", None))
    2026-11-30 21:15:00+00:00
    >>> print(instant("2026-11-30 22:15", None), instant("11/12/2026 22:15", zone("+01:00")))
    None None
    """
    words = re.sub(r"^[^\W\d]+, ", "", " ".join(text.split())).replace(" UTC", "+00:00")
    found = None
    with suppress(ValueError):
        found = datetime.fromisoformat(words)
    for form in FORMATS:
        with suppress(ValueError):
            found = found or datetime.strptime(words, form)
    if found is None or (found.tzinfo is None and where is None):
        return None
    with suppress(OverflowError):
        return (found if found.tzinfo else found.replace(tzinfo=where)).astimezone(UTC)
    return None


def deadline(text: str) -> datetime:
    """Read a deadline, of this machine's zone if it names none; a day means its end.

    Raises
    ------
    ValueError
        It is no time as 2026-11-30T23:59+01:00, and no day as 2026-11-30.

    Examples
    --------
    >>> deadline("2026-11-30T23:59+01:00")
    datetime.datetime(2026, 11, 30, 22, 59, tzinfo=datetime.timezone.utc)
    >>> deadline("2026-11-30") == deadline("2026-11-30T23:59:59")
    True
    """
    found = datetime.fromisoformat(text)
    if re.fullmatch(r"[\dW-]+", text):
        found = datetime.combine(found, time(23, 59, 59))
    return found.astimezone(UTC)
