"""Table 6: metric losses beside cross-entropy."""

from protoat.paper.rows import CIFAR10_2, NPAIR, OURS, OURS_ACL, PROXY_ANCHOR, PROXY_NCA, TLA
from protoat.paper.tables import notes
from protoat.paper.tables.table import CLEAN, FGSM, PGD10, Line, Table

TABLE = Table(
    title="Accuracy (%) with different metric losses on CIFAR10-2",
    rows=(
        Line("Triplet loss (TLA)", TLA),
        Line("N-Pair loss", NPAIR),
        Line("Proxy-NCA", PROXY_NCA),
        Line("Proxy-Anchor", PROXY_ANCHOR),
        Line("Ours (PGD)", OURS),
        Line("Ours (PGD) + ACL", OURS_ACL),
    ),
    columns=(CLEAN, FGSM, PGD10),
    paper="""
        80.48 78.00 59.92
        77.50 75.21 57.08
        80.60 76.48 57.38
        81.51 77.06 58.12
        86.64 80.31 62.14
        87.82 81.89 63.33
    """,
    notes=(
        notes.Note(
            "The paper compares losses that start from random weights with its own started from ACL only; the row Ours "
            "(PGD), with the values of the paper's Tables 3 and 4, is the fair one and stands beside it.",
            setups=("ours*",),
        ),
        notes.Note("The paper's row of the triplet loss repeats its TLA.", setups=("tla",)),
        notes.Note(
            "The paper's N-Pair, Proxy-NCA and Proxy-Anchor have no published settings: those of their authors are "
            "used, with the weight of ours.",
            setups=("npair", "proxy-*"),
        ),
        notes.FGSM,
        *notes.GROUPS,
        notes.TLA,
        notes.ACL_ROCL,
        *notes.COMMON,
    ),
    base=Line("", data=CIFAR10_2),
)
