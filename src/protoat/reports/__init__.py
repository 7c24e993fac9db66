"""Reports: what records say, as a page or a table for people to read."""
