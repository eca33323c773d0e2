"""Write tables, figures and run pages from the records when the build starts."""

from pathlib import Path

from sphinx.errors import ExtensionError

from cdu import report
from cdu.errors import CduError


def write_report(app, config):
    try:
        report.build(Path(app.srcdir))
    except CduError as error:
        raise ExtensionError(str(error)) from error


def drop_live_code(app, pagename, templatename, context, doctree):
    """Leave out the scripts for running code in the browser: they need the network, and fail when loaded twice."""
    context["script_files"] = [
        script
        for script in context["script_files"]
        if "thebe" not in str(script.filename) and "THEBE" not in script.attributes.get("body", "")
    ]


def setup(app):
    # Before the table of contents is read (priority 900), so that its glob finds the run pages.
    app.connect("config-inited", write_report, priority=100)
    app.connect("html-page-context", drop_live_code)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
