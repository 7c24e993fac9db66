"""Records of runs as they lie on the disk: read, validated, held against themselves."""
