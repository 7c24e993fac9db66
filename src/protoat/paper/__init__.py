"""The paper: its tables and figures, and the laboratory that does what they need. Only `cli` imports it."""
