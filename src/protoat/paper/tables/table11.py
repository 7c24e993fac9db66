"""Table 11, ours: whether modes help, over a strong base."""

from protoat.paper.mode_rows import STRONG_ROWS, study

TABLE = study("averaged weights, full attack steps and, on CIFAR, smoothed labels", STRONG_ROWS)
