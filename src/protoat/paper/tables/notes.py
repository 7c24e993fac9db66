"""Footnotes of the tables: deviations from the paper and its ambiguities.

A note says which cells it is about, and stands below a table that shows one of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from protoat.paper.tables.table import Cell


@dataclass(frozen=True)
class Note:
    """Words about the cells that have one of each kind of name that is given; `*` stands for any letters.

    Attributes:
        text: what is said.
        setups: ways to train, as ``--rows`` takes them.
        data: data sets, by what names their runs.
        attacks: as the table names them, whatever stands in for them at a budget.
        reads: what is read off the record.

    >>> from protoat.paper.rows import CIFAR10, FAST
    >>> from protoat.paper.tables.table import Cell
    >>> cell = Cell(FAST, CIFAR10, "pgd10", "accuracy")
    >>> Note("", setups=("*fast",), data=("cifar*",)).is_about(cell), Note("", attacks=("aa",)).is_about(cell)
    (True, False)
    """

    text: str
    setups: Sequence[str] = ("*",)
    data: Sequence[str] = ("*",)
    attacks: Sequence[str] = ("*",)
    reads: Sequence[str] = ("*",)

    def is_about(self, cell: Cell) -> bool:
        """Whether a cell is among those it speaks of."""
        wanted = (self.setups, self.data, self.attacks, self.reads)
        names = (cell.setup.name, cell.data.name, cell.attack, cell.read)
        return all(
            any(fnmatchcase(name, pattern) for pattern in patterns)
            for name, patterns in zip(names, wanted, strict=True)
        )


_FAST, _FREE = ("fast", "ours-fast"), ("free", "ours-free", "free-slow")

OURS = Note(
    "Ours: the paper gives neither scale nor margin of SoftTriple (here 20 and 0.01, as its authors'), nor which "
    "embeddings its prototypes see (here adversarial ones, normalised), what the attack climbs (here cross-entropy of "
    "the linear head, which also predicts; with Free the whole loss), what its norm term weighs (here embeddings, "
    "beside the weight decay), or when and how prototypes merge (here those of a class closer than 0.1, once an "
    "epoch).",
    setups=("ours*", "single-mode"),
)
SELECTION = Note(
    "Measured are the weights of the epoch that is best under PGD-10 on training images held out for that; the paper "
    "does not say which epoch it reports, nor of how many runs."
)
BATCH_NORM = Note(
    "Training attacks run with batch norm in eval mode, so running averages move with training steps only; the paper "
    "does not say, and the code of Madry and of Fast has it in train mode.",
    setups=("pgd", "fast", "ours", "ours-fast", "ours-acl", "ours-[0-9]*", "ours-weight-*", "single-mode"),
)
COMMON = (OURS, BATCH_NORM, SELECTION)
SCHEDULES = Note(
    "Fast and Free have the paper's short schedule (15 epochs, cyclic rate 0.001 to 0.2), all other rows its standard "
    "one; which rows had which is read from its training times.",
    setups=(*_FAST, "free", "ours-free"),
)
FAST = (
    Note("Fast: training stops when it collapses.", setups=_FAST),
    Note("Fast on CIFAR: the step is as long as the radius, the paper's 8/255.", setups=_FAST, data=("cifar*",)),
    Note(
        "Fast on Tiny ImageNet: the step is half as long as the radius of training, the paper's 4/255.",
        setups=_FAST,
        data=("tiny-imagenet",),
    ),
    Note(
        "Fast on MNIST: the step is 1.25 radii long, as the authors of Fast have it; the paper's 8 of 255 would be a "
        "tenth of its radius there.",
        setups=_FAST,
        data=("mnist*",),
    ),
)
FREE = (
    Note(
        "Free: the cyclic rate that Fast's authors give it peaks at 0.04, the paper's at 0.2 for all; 15 passes over "
        "the data, each replayed.",
        setups=_FREE,
    ),
    Note(
        "Free on MNIST: at the paper's rate training breaks down, so a row of ours has the authors', 0 to 0.04.",
        setups=("free", "free-slow"),
        data=("mnist*",),
    ),
)
FGSM = Note(
    "FGSM takes one step of the whole radius. The paper's is 2 to 14 points below clean, where public models lose 20 "
    "or more at 8/255; one step of 2/255 would explain that.",
    attacks=("fgsm*",),
)
BIM = Note(
    "BIM7 takes the paper's step of 2/255. Its numbers lie 5 to 8 points above PGD10, which such a step does not "
    "explain; 1/255, in a column of its own, may.",
    attacks=("bim*",),
)
CW = Note(
    "CW: the paper does not define it. Here PGD on Carlini and Wagner's margin (kappa 50), with 10 steps as PGD10, and "
    "with 100 in a column of its own. Under L-inf it should lie at or below PGD10; the paper's lies above.",
    attacks=("cw*",),
)
MNIST = (
    Note("MNIST: images are not flipped or cropped, which would change digits.", data=("mnist*",)),
    Note(
        "MNIST: all rows but Fast and Free train with steps of 0.01 as the paper has them. 7 of them move a pixel by "
        "at most 0.07, and cannot cross its ball of radius 0.3. The validation attack uses full steps, as does the "
        "pre-training of encoders, and Table 9 also trains with them.",
        setups=("pgd", "tla", "acl", "rocl", "ours*", "single-mode"),
        data=("mnist-as-written",),
    ),
    Note(
        "MNIST: ACL is finetuned with 10 steps of 0.01, which move a pixel by at most 0.1.",
        setups=("acl",),
        data=("mnist-as-written",),
    ),
    Note(
        "MNIST: PGD10 attacks with steps of 0.01 as the paper has them. 10 of them move a pixel by at most 0.1 from a "
        "random start, and cannot cross its ball of radius 0.3: the paper's figures are of that weak attack.",
        data=("mnist-as-written",),
        attacks=("pgd10/*",),
    ),
    Note(
        "MNIST: the columns PGD100x10 (10 restarts, full steps) and AutoAttack are ours and say what is left under "
        "strong attacks.",
        data=("mnist-as-written",),
        attacks=("pgd100x10", "aa"),
    ),
)
_JOINED = "as the paper's Figure 1 does with MNIST; it does not say how it joins these."
GROUPS = (
    Note(f"CIFAR10-2 joins classes 0-4 and 5-9, {_JOINED}", data=("cifar10-2",)),
    Note(f"CIFAR100-10 joins ten classes in turn, {_JOINED}", data=("cifar100-10",)),
)
TINY = Note(
    "Tiny ImageNet: trained at 8/255 and measured at 4/255 as in the paper, by PGD10 with steps of 2/255. Test images "
    "are the 10,000 validation images, since labels of the others are not public. ResNet-50 begins with a 3x3 "
    "convolution of stride 1, without max-pool, and a first stage of stride 2; the paper does not say.",
    data=("tiny-imagenet",),
)
TLA = Note(
    "TLA: its authors' loss and weights for this data, without the label smoothing they have on MNIST and Tiny "
    "ImageNet, with the method and the schedule of the other rows.",
    setups=("tla",),
)
ACL_ROCL = Note(
    "ACL and RoCL: encoders are pre-trained here, one for all seeds, on the training images without labels, for the "
    "epochs said above; their authors take 1000, and the paper the weights that ACL's have published. The paper does "
    "not say how it finetunes: ACL by TRADES as its authors, RoCL and Ours + ACL by the method of the rows without, "
    "all for as many epochs; images pass through the batch norm of attacked ones. On MNIST the radius of training "
    "grows over the first epoch, and on other data images are normalised as in pre-training.",
    setups=("acl", "rocl", "ours-acl"),
)
