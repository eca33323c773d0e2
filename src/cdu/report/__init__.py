"""The report: records → claims, tables, figures and pages. It imports no torch."""
