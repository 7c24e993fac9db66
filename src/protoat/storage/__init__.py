"""Files of ours: written whole or not at all, locked, with checksums, read within limits."""
