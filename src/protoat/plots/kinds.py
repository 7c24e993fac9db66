"""The kinds of file that a figure alone is written as; kept apart, as drawing libraries take a second to import."""

SUFFIXES = (".pdf", ".svg", ".png")
