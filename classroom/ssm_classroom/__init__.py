"""The classroom: release, check, collect, grade and give back the assignments of the book.

It wraps nbgrader, and adds what nbgrader lacks for a class whose code nobody has read: submissions
are put in order before they run, they run in a sandbox, and the tests run outside it.

Everything happens in a course folder, ``book/assignments`` in this repository:

    nbgrader_config.py          settings, also of nbgrader's own commands
    source/NAME/NAME.ipynb      with solutions and hidden tests: the instructor writes these
    release/NAME/NAME.ipynb     without them: ``release`` writes these
    submitted/STUDENT/NAME/     as handed in: ``collect`` writes these
    executed/STUDENT/NAME/      put in order and run, with report.json: ``grade`` writes these
    autograded/STUDENT/NAME/    scored by nbgrader, as are the marks in gradebook.db
    feedback/STUDENT/NAME/      pages for the students: ``feedback`` writes these

Each command is the module of its name, and ``python -m ssm_classroom --help`` lists them. How a
submission is collected, and where each step is:

- ``uploads`` opens a folder or a zip, and unpacks nothing;
- ``owners`` tells whose a file is by its place there, and when it was handed in; ``names`` makes a
  folder's name of it, ``times`` reads times, ``roster`` reads the class;
- ``versions`` compares what one student handed in with the assignment;
- ``collect`` keeps one notebook of each, and lists the rest.

How it is graded:

- ``notebook`` puts back each cell that is not the student's to change, and says what it found;
- ``sandbox`` starts a ``kernel`` with no network, no file but a private folder, and with limits;
- ``judge`` runs the student's cells in that kernel and the test cells in its own process: a call of
  a student's function goes through ``remote`` and brings back plain data. No hidden test and no
  expected value ever enters the process of the student, which therefore cannot read or mend them;
- ``grade`` does so for a class and hands the executed notebooks to nbgrader, which scores them.
"""

import sys

# jsonschema would spend seconds on the grammars of addresses and times, which no notebook holds.
for _grammar in ("rfc3987_syntax", "rfc3986_validator", "isoduration"):
    sys.modules.setdefault(_grammar, None)  # type: ignore[arg-type]
