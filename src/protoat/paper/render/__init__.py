"""Tables set for a terminal, Markdown, LaTeX and CSV."""
