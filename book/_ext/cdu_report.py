"""Write tables, figures and run pages from the records when the build starts; build on all cores."""

import os
import posixpath
from pathlib import Path

from sphinx import addnodes
from sphinx.errors import ExtensionError

from cdu.errors import CduError
from cdu.report import build

#: Extensions that do not say whether pages may be read at once. They keep nothing from reading one page to another.
SILENT = ("sphinx-mathjax-offline", "sphinx_jupyterbook_latex", "sphinx_multitoc_numbering")


def use_all_cores(app, config):
    """Read and write pages on all cores: jupyter-book has no option for it, and leaves Sphinx with one."""
    if app.parallel == 1:
        app.parallel = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def call_silent_extensions_safe(app):
    for name in SILENT:
        if name in app.extensions:
            app.extensions[name].parallel_read_safe = True


def write_report(app, config):
    try:
        build.build(Path(app.srcdir))
    except CduError as error:
        raise ExtensionError(str(error)) from error


def shorten_contents(app, pagename, templatename, context, doctree):
    """Make the sidebar's table of contents with less work; what it shows is the same.

    Sphinx makes it for every page from the contents of all pages, the many names of the API reference included, and
    then keeps titles only. Pages that are not in it, such as the modules' source, share one per folder.
    """
    original, listed = context["toctree"], pagename in app.env.found_docs
    kept = app.builder.__dict__.setdefault("_cdu_contents", {})

    def toctree(**options):
        key = (posixpath.dirname(pagename), *sorted(options.items()))
        if not listed and key in kept:
            return kept[key]
        whole = app.env.tocs
        if options.get("titles_only"):
            if "titles" not in kept:
                kept["titles"] = {name: titles(contents) for name, contents in whole.items()}
            app.env.tocs = kept["titles"]
        try:
            made = original(**options)
        finally:
            app.env.tocs = whole
        if not listed:
            kept[key] = made
        return made

    context["toctree"] = toctree


def titles(contents):
    """A page's contents without its sections, but with the tables of other pages, as Sphinx leaves them."""
    copy = contents.deepcopy()
    for entry in copy.children:
        if len(entry) > 1:
            if others := list(entry.findall(addnodes.toctree)):
                entry[1][:] = others
            else:
                entry.pop(1)
    return copy


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
    app.connect("config-inited", use_all_cores)
    app.connect("builder-inited", call_silent_extensions_safe)
    # Before the theme, which makes the sidebar to see whether it is empty (priority 500).
    app.connect("html-page-context", shorten_contents, priority=100)
    app.connect("html-page-context", drop_live_code)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
