"""The settings of the course: of `python -m ssm_classroom` and of nbgrader's own commands."""

c = get_config()  # noqa: F821

c.CourseDirectory.course_id = "ssm"
