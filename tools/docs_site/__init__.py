"""What the documentation site needs beside Sphinx: pages of the reference, links, and a check of the result."""
