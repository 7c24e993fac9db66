"""Table 1: the three ways to train, with and without prototypes, and what prototypes cost."""

from protoat.paper.rows import CIFAR10, FAST, FREE, OURS, OURS_FAST, OURS_FREE, PGD
from protoat.paper.tables import notes
from protoat.paper.tables.table import Line, Table

TABLE = Table(
    title="Accuracy (%) and training time of adversarial training on CIFAR10, with and without prototypes",
    rows=(
        Line("PGD-AT", PGD),
        Line("Ours (PGD)", OURS),
        Line("Free-AT", FREE),
        Line("Ours (Free)", OURS_FREE),
        Line("Fast-AT", FAST),
        Line("Ours (Fast)", OURS_FAST),
    ),
    columns=(
        Line("Clean", attack="clean"),
        Line("FGSM", attack="fgsm"),
        Line("FGSM at 2/255", attack="fgsm@2/255", ours=True),
        Line("PGD10", attack="pgd10"),
        Line("PGD20", attack="pgd20/2/255"),
        Line("Training time (min)", read="minutes"),
        Line("Overhead (%)", read="overhead", ours=True),
    ),
    paper="""
        83.77 78.37 51.60 50.40 2895
        85.45 78.91 53.15 52.34 2916
        85.29 71.45 46.09 45.90 362.2
        85.01 72.20 49.29 48.10 377.0
        85.29 78.70 46.81 45.71 171.8
        85.98 78.94 47.84 46.64 174.6
    """,
    notes=(
        notes.SCHEDULES,
        *notes.FAST,
        *notes.FREE,
        notes.FGSM,
        notes.Note(
            "Training time is the sum over epochs, validation included, on the machine named in each run.json, and two "
            "runs side by side slow each other down; overhead is that of an epoch over an epoch of the row above it. "
            "The paper's times are of a GTX 1080Ti; its Fast runs took 11.5 minutes for each of 15 epochs, where two "
            "of eight passes predict 6, so they may have been longer.",
            reads=("minutes", "overhead"),
        ),
        notes.Note(
            "The paper's clean accuracies of Free-AT and Fast-AT are the same number, and its Table 2 gives Free "
            "another.",
            setups=("free", "fast"),
            attacks=("clean",),
            reads=("accuracy",),
        ),
        *notes.COMMON,
    ),
    base=Line("", data=CIFAR10),
)
