"""report: a finished study as text, tables, figures and one page."""
