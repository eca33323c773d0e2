"""The overview of the theory, which has no figure of its own."""

from cdu.report.chapters.page import Page

PAGES = (Page("01_theory", "theory", "Theory sanity checks"),)
