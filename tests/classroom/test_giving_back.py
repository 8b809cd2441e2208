"""Points, pages and deadlines go back as each platform takes them."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ssm_classroom.__main__ import main
from ssm_classroom.collect import collect
from ssm_classroom.course import ClassroomError, Course
from ssm_classroom.export import export, fill, write
from ssm_classroom.extend import extend
from ssm_classroom.notebook import read
from ssm_classroom.pack import pack, whole
from ssm_classroom.report import report, waiting
from ssm_classroom.roster import Roster, read_roster
from ssm_classroom.start import start
from ssm_classroom.times import zone
from tiny import FIRST, QUIET, released

# nbgrader's own way to add a submission makes SQLAlchemy warn.
pytestmark = [*QUIET, pytest.mark.filterwarnings("ignore:Object of type <")]
EXPORTS = {
    "Moodle": ["Ada Lovelace_1234_assignsubmission_file_", "Zoë Ng_1235_assignsubmission_file_"],
    "Canvas": ["lovelaceada_LATE_1234_77_", "ngzoe_1235_78_"],
    "Blackboard": ["T_ada_attempt_2026-03-01-12-30-00_", "T_zoe_attempt_2026-03-01-12-30-00_"],
}
TABLES = {
    "Moodle": """\ufeffIdentifier,"Full name","Email address",Grade,"Maximum Grade",\
"Last modified (submission)","Feedback comments"
"Participant 1234","Ada Lovelace",ada@x.example,,5.00,"Sunday, 1 March 2026, 1:30 PM",
"Participant 1235","Zoë Ng",,,5.00,-,
"Participant 1236","=cmd()",,,5.00,-,kept
""",
    "Canvas": """Student,ID,SIS User ID,SIS Login ID,Section,tiny (901),tiny two (902)
,,,,,Manual Posting,
    Points Possible,,,,,5.0,9
"Lovelace, Ada",1234,,ada,A,,1
"Ng, Zoë",1235,,zoe,A,2,1
"Abt, Ben",1236,,ben,A,3,1
""",
    "Blackboard": """Last Name\tFirst Name\tUsername\t\
tiny [Total Pts: 5 Score] |77\tFeedback to Learner
Lovelace\tAda\tada\t\t
Ng\tZoë\tzoe\t2\t
Abt\tBen\tben\t3\t
""",
}


@pytest.fixture(params=EXPORTS)
def graded(request: pytest.FixtureRequest, course: Course, tmp_path: Path) -> tuple[Course, Roster]:
    """A class of three: Ada has 4 points and a comment, Zoë waits, Ben handed in nothing."""
    mine = Course(tmp_path / "course")
    shutil.copytree(course.root, mine.root)
    path = tmp_path / "table.csv"
    path.write_text(TABLES[request.param], "utf-16" if request.param == "Blackboard" else "utf8")
    table = read_roster(path, zone("Europe/Berlin"))
    assert table.kind == request.param
    with zipfile.ZipFile(tmp_path / "e.zip", "w") as archive:
        for prefix in EXPORTS[request.param]:
            slash = "/" * (request.param == "Moodle")
            archive.writestr(f"{prefix}{slash}tiny.ipynb", json.dumps(released(course)))
    collect(mine, "tiny", tmp_path / "e.zip", roster=table)
    students = mine.students("submitted", "tiny")
    with mine.gradebook() as book:
        for student in students:
            book.add_student(student)
            submission = book.add_submission("tiny", student)
            for grade in submission.notebooks[0].grades:
                grade.auto_score = 2.0 if grade.cell.cell_type == "code" else None
                waits = student == _of(students, "z", "n") and grade.name == "why"
                grade.needs_manual_grade = waits
            for comment in submission.notebooks[0].comments:
                if comment.name == "why":
                    comment.manual_comment = "Why <so>?"
        book.db.commit()
    return mine, table


def _of(students: list[str], *letters: str) -> str:
    return next(s for s in students if s.lower().startswith(letters))


def test_a_table_goes_back_as_it_came_with_points_and_comments(graded, tmp_path):
    mine, table = graded
    rows, notes = fill(mine, "tiny", table, "tiny")
    write(tmp_path / "back.csv", rows, table)
    back = read_roster(tmp_path / "back.csv")
    assert (back.kind, back.encoding) == (table.kind, table.encoding)
    assert [p.key for p in back.people] == [p.key for p in table.people]
    at = next(k for k, name in enumerate(back.head) if name == "Grade" or name.startswith("tiny"))
    ada, zoe, ben = (back.rows[person.row] for person in back.people)
    before = [table.rows[person.row] for person in table.people]
    assert ada[at] == "4"
    assert [zoe[at], ben[at]] == [row[table.head.index(back.head[at])] for row in before[1:]]
    assert any("Left as it was, waits for you: " in note and "Ng" in note for note in notes)
    assert any(note.startswith("No marks: ") for note in notes)
    words = [name for name in back.head if name.startswith("Feedback")]
    if table.kind == "Canvas":
        assert len(back.head) == 6
        assert back.rows[:3] == [row[:6] for row in table.rows[:3]]
    else:
        assert ada[back.head.index(words[0])].endswith("why: Why &lt;so&gt;?")
        assert "first: 2 of 2" in ada[back.head.index(words[0])]
        assert ben == before[2]


def test_pages_go_back_under_the_platforms_names(graded, tmp_path):
    mine, table = graded
    for student in mine.students("submitted", "tiny"):
        place = mine.place("feedback", "tiny", student)
        place.mkdir(parents=True)
        script = '<script src="tex-svg.js" defer></script>'
        page = f"<html><head>{script}</head><body>{student}</body></html>"
        (place / "tiny.html").write_text(page)
        (place / "tex-svg.js").write_text("draw('</script>')")
    names = pack(mine, "tiny", tmp_path / "back.zip")
    prefixes = EXPORTS[table.kind]
    expected = {
        "Moodle": [f"{prefix}/tiny.html" for prefix in prefixes],
        "Canvas": [f"{prefix}tiny.html" for prefix in prefixes],
        "Blackboard": ["ada/tiny.html", "zoe/tiny.html"],
    }
    assert sorted(names) == sorted(expected[table.kind])
    page = zipfile.ZipFile(tmp_path / "back.zip").read(names[0]).decode()
    assert page.endswith(r"<script>draw('<\/script>')</script>" + "\n</body></html>")
    assert "src=" not in page


def test_more_time_for_one_student(graded):
    mine, table = graded
    ada = _of(mine.students("submitted", "tiny"), "a", "l")
    with pytest.raises(ClassroomError, match="must have a deadline"):
        extend(mine, "tiny", ada, datetime(2026, 3, 1))
    with mine.gradebook() as book:
        book.update_or_create_assignment("tiny", duedate=datetime(2026, 3, 1, 12, 0))
        book.update_or_create_submission("tiny", ada, timestamp=datetime(2026, 3, 1, 12, 30))
    late = {row[1]: row[6] for row in export(mine, ["tiny"])[1:]}
    assert sorted(map(str, late.values())) == (
        ["0", "1800"] if table.kind == "Canvas" else ["", "1800"]
    )
    told = extend(mine, "tiny", ada, datetime(2026, 3, 1, 12, 20))
    assert told == f"{ada}: until 2026-03-01 12:20 UTC, instead of 2026-03-01 12:00 UTC"
    assert {row[6] for row in export(mine, ["tiny"])[1:] if row[1] == ada} == {600}
    extend(mine, "tiny", ada, datetime(2026, 3, 1, 12, 40))
    expected = "LATE" if table.kind == "Canvas" else 0
    assert {row[6] for row in export(mine, ["tiny"])[1:] if row[1] == ada} == {expected}


def test_a_report_says_how_it_went_and_what_waits(graded, capsys):
    mine, _ = graded
    students = mine.students("submitted", "tiny")
    ada, zoe = _of(students, "a", "l"), _of(students, "z", "n")
    with pytest.raises(ClassroomError, match="run `grade` first"):
        report(mine, "tiny")
    for student in students:
        mine.place("autograded", "tiny", student).mkdir(parents=True)
    mine.place("executed", "tiny", ada).mkdir(parents=True)
    (mine.place("executed", "tiny", ada) / "report.json").write_text('{"remarks": ["odd", "ö"]}')
    with mine.gradebook() as book:
        book.find_grade("second", "tiny", "tiny", ada).auto_score = 0
        for student in students:
            book.find_grade("first", "tiny", "tiny", student).auto_score = 0
        book.db.commit()
    assert main(["report", "--course", str(mine.root), "tiny"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "tiny: 2 graded, median 1 of 5 points, from 0 to 2",
        "  first (2 points): 0 of 2 in full. Nobody has a point: look at the question",
        "  second (2 points): 1 of 2 in full",
        "  why (1 points): 0 of 1 in full, 1 wait. Nobody has a point: look at the question",
        f"Wait for you: {zoe}",
        f"Not a single point: {ada}",
        f"With remarks: {ada} (2)",
    ]
    assert waiting(mine, "tiny") == [zoe]


def test_giving_back_says_what_is_wrong(course, mine, tmp_path, capsys):
    own = tmp_path / "own.csv"
    own.write_text("id\nada\n")
    canvas = tmp_path / "canvas.csv"
    canvas.write_text(TABLES["Canvas"].replace("5.0,9", "6.0,9"), "utf8")
    nowhere = str(tmp_path / "no" / "such.csv")
    for command, words in [
        (["export", "--to", nowhere], "to must be a file that can be written; got"),
        (
            ["export", "tiny", "--to", nowhere, "--into", str(own)],
            "into must be Moodle's worksheet",
        ),
        (["export", "tiny", "--into", str(own)], "must have one assignment and --to FILE"),
        (["extend", "tiny", "eve", "2026-01-01"], "student must have handed in 'tiny'; got 'eve'"),
    ]:
        assert main([command[0], "--course", str(course.root), *command[1:]]) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(ClassroomError, match="which is in 2 of"):
        fill(course, "tiny", read_roster(canvas), "iny")
    with pytest.raises(ClassroomError, match="got none of 'tiny'"):
        pack(mine, "tiny", tmp_path / "x.zip")


def test_another_number_of_points_is_refused(graded, tmp_path):
    mine, table = graded
    text = TABLES[table.kind].replace("5.0", "6.0").replace("Pts: 5", "Pts: 6")
    path = tmp_path / "other.csv"
    path.write_text(text, table.encoding if table.encoding == "utf-16" else "utf8")
    with pytest.raises(ClassroomError, match="must have 5 points on the platform; got 6"):
        fill(mine, "tiny", read_roster(path), "tiny")


def test_a_page_without_the_script_stays_as_it_is(tmp_path):
    (tmp_path / "tiny.html").write_text("<html></html>")
    assert whole(tmp_path / "tiny.html") == "<html></html>"


def test_no_cell_of_the_table_starts_a_formula(course, tmp_path):
    mine = Course(tmp_path / "course")
    shutil.copytree(course.root, mine.root)
    with mine.gradebook() as book:
        book.add_student("=cmd()")
        book.add_submission("tiny", "=cmd()")
    write(tmp_path / "t.csv", export(mine, ["tiny"]))
    with (tmp_path / "t.csv").open(newline="") as file:
        assert {row[1] for row in csv.reader(file)} == {"student", "'=cmd()"}


def test_solutions_are_released_when_it_is_over(course, tmp_path, capsys):
    mine = Course(tmp_path / "course")
    shutil.copytree(course.root, mine.root)
    here = ["--course", str(mine.root), "tiny", "--solutions"]
    with mine.gradebook() as book:
        book.update_or_create_assignment("tiny", duedate=datetime(2999, 1, 1))
    assert main(["release", *here]) == 2
    assert "can be handed in until 2999-01-01 00:00 UTC" in capsys.readouterr().err
    with mine.gradebook() as book:
        book.update_or_create_assignment("tiny", duedate=datetime(2026, 1, 1))
    assert main(["release", *here]) == 0
    text = mine.notebook("solution", "tiny").read_text()
    assert not any(
        secret in text for secret in ("HIDDEN", "1234567", "np.float64", "### ", "grade_id")
    )
    sources = [cell.source for cell in read(mine.notebook("solution", "tiny")).cells]
    assert FIRST in sources
    assert "Because." in sources
    assert "assert half(4.0) == 2.0" in sources


def test_a_day_as_deadline_means_its_end(course, tmp_path):
    mine = Course(tmp_path / "course")
    shutil.copytree(course.root, mine.root)
    assert main(["release", "--course", str(mine.root), "tiny", "--due", "2026-11-30"]) == 0
    with mine.gradebook() as book:
        end = datetime(2026, 11, 30, 23, 59, 59).astimezone(UTC).replace(tzinfo=None)
        assert book.find_assignment("tiny").duedate == end


def test_a_course_of_your_own_has_its_term(tmp_path, capsys):
    book = Course(Path(__file__).resolve().parents[2] / "book" / "assignments")
    command = ["start", "--course", str(book.root), str(tmp_path / "own"), "--term", "2031"]
    assert main(command) == 0
    own = Course(tmp_path / "own")
    assert own.assignments == book.assignments
    for name in own.assignments:
        old, new = (one.notebook("source", name).read_text("utf8") for one in (book, own))
        assert new == old.replace("TERM = 2026", "TERM = 2031") != old
    assert (own.root / "nbgrader_config.py").exists()
    assert main(command) == 2
    assert "folder must be a new one" in capsys.readouterr().err
    with pytest.raises(ClassroomError, match="course must hold assignments"):
        start(Course(tmp_path), tmp_path / "x")


def test_a_source_without_a_term_is_named(course, tmp_path):
    with pytest.raises(ClassroomError, match=r"one line TERM = ...; got 0 in"):
        start(course, tmp_path / "own", 2031)
    assert not (tmp_path / "own").exists()
    assert start(course, tmp_path / "own") == ["tiny"]
