"""Table 2: methods on data sets whose classes have one mode each."""

from dataclasses import replace

from protoat.paper.rows import (
    ACL,
    CIFAR10,
    CIFAR100,
    FAST,
    FREE,
    FREE_SLOW,
    MNIST_AS_WRITTEN,
    OURS,
    OURS_ACL,
    PGD,
    ROCL,
    SINGLE_MODE,
    TLA,
)
from protoat.paper.tables import notes
from protoat.paper.tables.table import AUTOATTACK, CLEAN, PGD10, Line, Table, under

_STRONG = (Line("PGD100x10", attack="pgd100x10", ours=True), AUTOATTACK)

TABLE = Table(
    title="Accuracy (%) on clean and on attacked images (PGD10) of MNIST, CIFAR10 and CIFAR100",
    rows=(
        Line("Fast", FAST),
        Line("Free", FREE),
        Line("Free (peak rate 0.04)", FREE_SLOW, ours=True),
        Line("PGD-AT", PGD),
        Line("TLA", TLA),
        Line("RoCL", ROCL),
        Line("ACL", ACL),
        Line("Ours (PGD) single mode", SINGLE_MODE),
        Line("Ours (PGD)", OURS),
        Line("Ours (PGD) + ACL", OURS_ACL),
    ),
    columns=(
        *under(MNIST_AS_WRITTEN, (CLEAN, replace(PGD10, attack="pgd10/0.01"), *_STRONG)),
        *under(CIFAR10, (CLEAN, PGD10)),
        *under(CIFAR100, (CLEAN, PGD10)),
    ),
    paper="""
        98.71 89.41 85.29 46.81 46.46 20.28
        98.63 89.69 85.01 46.09 49.94 21.08
        98.98 89.70 83.77 51.60 49.12 20.15
        99.29 93.86 85.23 52.31 48.80 22.89
        99.20 93.89 85.31 52.53 49.16 22.94
        99.15 94.91 83.28 52.90 56.83 28.36
        99.04 93.88 85.28 52.49 49.96 23.01
        99.16 94.93 85.45 53.15 50.12 23.83
        99.28 95.28 85.95 53.23 56.63 29.10
    """,
    notes=(
        *notes.MNIST,
        notes.SCHEDULES,
        *notes.FAST,
        *notes.FREE,
        notes.TLA,
        notes.ACL_ROCL,
        *notes.COMMON,
    ),
)
