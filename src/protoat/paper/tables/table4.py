"""Table 4: attacks that training did and did not use."""

from protoat.paper.rows import ACL, CIFAR10, CIFAR10_2, OURS, OURS_ACL, ROCL, TLA
from protoat.paper.tables import notes
from protoat.paper.tables.table import CLEAN, FGSM, PGD10, Line, Table

_METHODS = {"TLA": TLA, "RoCL": ROCL, "ACL": ACL, "Ours (PGD)": OURS, "Ours (PGD) + ACL": OURS_ACL}

TABLE = Table(
    title="Accuracy (%) under several attacks on CIFAR10 and CIFAR10-2",
    rows=tuple(
        Line(f"{data.label}: {label}", setup, data)
        for data in (CIFAR10, CIFAR10_2)
        for label, setup in _METHODS.items()
    ),
    columns=(
        CLEAN,
        FGSM,
        Line("FGSM at 2/255", attack="fgsm@2/255", ours=True),
        Line("BIM7", attack="bim7/2/255"),
        Line("BIM7, step 1/255", attack="bim7/1/255", ours=True),
        PGD10,
        Line("CW", attack="cw"),
        Line("CW, 100 steps", attack="cw100", ours=True),
    ),
    paper="""
        85.23 77.01 58.52 52.31 55.45
        85.31 79.08 60.34 52.53 57.33
        83.28 79.12 60.50 52.90 57.56
        85.45 78.91 60.14 53.15 56.39
        85.95 79.69 61.30 53.23 58.66
        80.48 78.00 65.34 59.92 64.90
        82.34 80.45 67.98 59.98 67.03
        84.88 80.85 68.08 62.10 67.50
        86.64 80.31 67.82 62.14 66.01
        87.82 81.89 69.44 63.33 68.77
    """,
    notes=(notes.FGSM, notes.BIM, notes.CW, *notes.GROUPS, notes.TLA, notes.ACL_ROCL, *notes.COMMON),
)
