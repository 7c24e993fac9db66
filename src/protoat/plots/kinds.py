"""Suffixes of figure files; apart from the plots, as drawing libraries take a second to import."""

SUFFIXES = (".pdf", ".svg", ".png")
