"""Table 9, ours: the weakest class and mode under AutoAttack, and whether the audit lets the number stand."""

from dataclasses import replace

from protoat.paper.rows import CIFAR10, CIFAR10_2, CIFAR100, CIFAR100_10, MNIST, TINY_IMAGENET
from protoat.paper.tables import notes
from protoat.paper.tables.table import AUTOATTACK, CLEAN, PGD10, Line, Table, under
from protoat.paper.tables.table2 import TABLE as TABLE2


def _columns(pgd10: Line = PGD10, *, modes: bool = False) -> tuple[Line, ...]:
    worst = [Line("Worst class", attack="aa", read="worst class")]
    if modes:  # where classes are not joined, each is its own mode
        worst.append(Line("Worst mode", attack="aa", read="worst mode"))
    return CLEAN, pgd10, AUTOATTACK, *worst, Line("Audit", read="audit")


TABLE = Table(
    title="Worst class and worst mode (%) under AutoAttack, and the audit, for all rows",
    rows=TABLE2.rows,
    columns=(
        *(column for data in (MNIST, CIFAR10, CIFAR100) for column in under(data, _columns())),
        *(column for data in (CIFAR10_2, CIFAR100_10) for column in under(data, _columns(modes=True))),
        *under(TINY_IMAGENET, _columns(replace(PGD10, attack="pgd10/2/255"))),  # as in Table 3
    ),
    notes=(
        notes.Note("The paper has no such table."),
        notes.Note(
            "MNIST: rows train with, and PGD10 attacks with, steps that cross the ball; in Table 2 they do not.",
            data=("mnist",),
        ),
        notes.Note(
            "AutoAttack: the standard version for ten classes and more; a composition of the same kind for two, so "
            "numbers of data sets with two classes do not compare with published ones.",
            attacks=("aa",),
        ),
        notes.Note(
            "Worst class and mode: the one with the lowest accuracy, with the interval of its own images; chosen after "
            "the fact, it is lower than what new images would show.",
            reads=("worst *",),
        ),
        notes.Note("A passed audit rules out common mistakes of the measurement only.", reads=("audit",)),
        notes.SCHEDULES,
        *notes.FAST,
        *notes.FREE,
        notes.TLA,
        notes.ACL_ROCL,
        notes.MNIST[0],
        notes.TINY,
        *notes.GROUPS,
        *notes.COMMON,
    ),
)
