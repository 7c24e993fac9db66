"""Table 10, ours: whether modes help, over plain adversarial training."""

from protoat.paper.mode_rows import ROWS, study

TABLE = study("plain PGD-AT or N-FGSM", ROWS)
