"""Table 3: methods on data sets whose classes have several modes."""

from protoat.paper.rows import (
    ACL,
    CIFAR10_2,
    CIFAR100_10,
    FAST,
    FREE,
    OURS,
    OURS_ACL,
    PGD,
    ROCL,
    TINY_IMAGENET,
    TLA,
)
from protoat.paper.tables import notes
from protoat.paper.tables.table import CLEAN, PGD10, Line, Table, under

TABLE = Table(
    title="Accuracy (%) on clean and on attacked images (PGD10) where classes have several modes",
    rows=(
        Line("Fast-AT", FAST),
        Line("Free", FREE),
        Line("PGD-AT", PGD),
        Line("TLA", TLA),
        Line("RoCL", ROCL),
        Line("ACL", ACL),
        Line("Ours (PGD)", OURS),
        Line("Ours (PGD) + ACL", OURS_ACL),
    ),
    columns=(
        *under(CIFAR10_2, (CLEAN, PGD10)),
        *under(CIFAR100_10, (CLEAN, PGD10)),
        *under(
            TINY_IMAGENET,
            (
                CLEAN,
                Line("PGD10", attack="pgd10/2/255"),
                Line("PGD10 at 8/255", attack="pgd10/2/255@8/255", ours=True),
            ),
        ),
    ),
    paper="""
        81.68 57.87 50.27 24.36 55.12 28.86
        79.88 58.61 49.84 25.06 60.42 29.93
        80.12 59.38 52.60 25.38 60.20 32.90
        80.48 59.92 52.50 26.10 59.38 33.70
        82.34 59.98 52.69 26.17 -     -
        84.88 62.10 58.28 30.20 -     -
        86.64 62.14 54.10 27.75 61.50 34.13
        87.82 63.33 62.32 34.02 -     -
    """,
    notes=(
        *notes.GROUPS,
        notes.TINY,
        notes.Note("Tiny ImageNet: the column at 8/255 is ours.", attacks=("*@8/255",)),
        notes.SCHEDULES,
        *notes.FAST,
        *notes.FREE,
        notes.TLA,
        notes.ACL_ROCL,
        *notes.COMMON,
    ),
)
