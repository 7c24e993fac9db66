"""The paper's numbers, written down a second time, column by column, from its text."""

from __future__ import annotations

from pathlib import Path

import pytest

import protoat.paper.tables
from protoat.paper.tables import table_numbers, table_of

# (table, column of the paper): its values from the first row to the last; None where it has a dash.
PAPER = {
    (1, "Clean"): (83.77, 85.45, 85.29, 85.01, 85.29, 85.98),
    (1, "FGSM"): (78.37, 78.91, 71.45, 72.20, 78.70, 78.94),
    (1, "PGD10"): (51.60, 53.15, 46.09, 49.29, 46.81, 47.84),
    (1, "PGD20"): (50.40, 52.34, 45.90, 48.10, 45.71, 46.64),
    (1, "Training time (min)"): (2895, 2916, 362.2, 377.0, 171.8, 174.6),
    (2, "MNIST Clean"): (98.71, 98.63, 98.98, 99.29, 99.20, 99.15, 99.04, 99.16, 99.28),
    (2, "MNIST PGD10"): (89.41, 89.69, 89.70, 93.86, 93.89, 94.91, 93.88, 94.93, 95.28),
    (2, "CIFAR10 Clean"): (85.29, 85.01, 83.77, 85.23, 85.31, 83.28, 85.28, 85.45, 85.95),
    (2, "CIFAR10 PGD10"): (46.81, 46.09, 51.60, 52.31, 52.53, 52.90, 52.49, 53.15, 53.23),
    (2, "CIFAR100 Clean"): (46.46, 49.94, 49.12, 48.80, 49.16, 56.83, 49.96, 50.12, 56.63),
    (2, "CIFAR100 PGD10"): (20.28, 21.08, 20.15, 22.89, 22.94, 28.36, 23.01, 23.83, 29.10),
    (3, "CIFAR10-2 Clean"): (81.68, 79.88, 80.12, 80.48, 82.34, 84.88, 86.64, 87.82),
    (3, "CIFAR10-2 PGD10"): (57.87, 58.61, 59.38, 59.92, 59.98, 62.10, 62.14, 63.33),
    (3, "CIFAR100-10 Clean"): (50.27, 49.84, 52.60, 52.50, 52.69, 58.28, 54.10, 62.32),
    (3, "CIFAR100-10 PGD10"): (24.36, 25.06, 25.38, 26.10, 26.17, 30.20, 27.75, 34.02),
    (3, "Tiny ImageNet Clean"): (55.12, 60.42, 60.20, 59.38, None, None, 61.50, None),
    (3, "Tiny ImageNet PGD10"): (28.86, 29.93, 32.90, 33.70, None, None, 34.13, None),
    (4, "Clean"): (85.23, 85.31, 83.28, 85.45, 85.95, 80.48, 82.34, 84.88, 86.64, 87.82),
    (4, "FGSM"): (77.01, 79.08, 79.12, 78.91, 79.69, 78.00, 80.45, 80.85, 80.31, 81.89),
    (4, "BIM7"): (58.52, 60.34, 60.50, 60.14, 61.30, 65.34, 67.98, 68.08, 67.82, 69.44),
    (4, "PGD10"): (52.31, 52.53, 52.90, 53.15, 53.23, 59.92, 59.98, 62.10, 62.14, 63.33),
    (4, "CW"): (55.45, 57.33, 57.56, 56.39, 58.66, 64.90, 67.03, 67.50, 66.01, 68.77),
    (5, "CIFAR10-2"): (63.33, 79.08, 79.00, 79.00),
    (5, "CIFAR100-10"): (34.02, 39.88, 39.30, 38.56),
    # The row before the last is Ours (PGD), which Table 6 leaves out: from Tables 3 and 4.
    (6, "Clean"): (80.48, 77.50, 80.60, 81.51, 86.64, 87.82),
    (6, "FGSM"): (78.00, 75.21, 76.48, 77.06, 80.31, 81.89),
    (6, "PGD10"): (59.92, 57.08, 57.38, 58.12, 62.14, 63.33),
    (7, "Clean"): (78.48, 79.52, 80.08, 80.10, 85.24, 87.82),
    (7, "PGD10"): (60.17, 60.20, 60.27, 62.10, 62.10, 63.33),
    (8, "weight 2.0"): (49.54, 59.22),
    (8, "weight 1.5"): (50.90, 59.60),
    (8, "weight 1.0"): (51.04, 60.90),
    (8, "weight 0.5"): (53.23, 63.33),
    (8, "weight 0.1"): (52.18, 60.74),
}
ROWS = {
    1: ("PGD-AT", "Ours (PGD)", "Free-AT", "Ours (Free)", "Fast-AT", "Ours (Fast)"),
    2: ["Fast", "Free", "PGD-AT", "TLA", "RoCL", "ACL", "Ours (PGD) single mode", "Ours (PGD)", "Ours (PGD) + ACL"],
    3: ["Fast-AT", "Free", "PGD-AT", "TLA", "RoCL", "ACL", "Ours (PGD)", "Ours (PGD) + ACL"],
    4: [
        f"{data}: {row}"
        for data in ("CIFAR10", "CIFAR10-2")
        for row in ["TLA", "RoCL", "ACL", "Ours (PGD)", "Ours (PGD) + ACL"]
    ],
    5: ("Untargeted", "Targeted (least likely)", "Targeted (next label)", "Targeted (random)"),
    6: ["Triplet loss (TLA)", "N-Pair loss", "Proxy-NCA", "Proxy-Anchor", "Ours (PGD)", "Ours (PGD) + ACL"],
    7: ("2/2", "2/3", "3/2", "3/3", "4/3", "3/4"),
    8: ("CIFAR10", "CIFAR10-2"),
}


@pytest.mark.parametrize("number", ROWS)
def test_every_number_of_the_paper_is_the_one_it_prints(number: int) -> None:
    table = table_of(number)
    rows = [row for row in table.rows if not row.ours]
    assert [row.label for row in rows] == list(ROWS[number])
    found = {}
    for column in table.columns:
        values = tuple(table.printed(row, column) for row in rows)
        if any(values):
            several = len({line.data for line in table.columns}) > 1
            name = (
                f"{column.data.label} {column.label}" if several and column.data and number in (2, 3) else column.label
            )
            found[number, name] = tuple(None if value is None else float(value) for value in values)
    assert found == {key: values for key, values in PAPER.items() if key[0] == number}


def test_lines_that_are_ours_have_no_number_of_the_paper() -> None:
    for number in table_numbers():
        table = table_of(number)
        for row in table.rows:
            for column in table.columns:
                if row.ours or column.ours or number == 9:
                    assert table.printed(row, column) is None


def test_a_table_is_a_short_declaration() -> None:
    files = sorted(Path(protoat.paper.tables.__file__).parent.glob("table[0-9]*.py"))
    assert {path.stem for path in files} == {f"table{number}" for number in range(1, 12)}
    assert max(len(path.read_text().splitlines()) for path in files) < 80


def test_tiny_imagenet_is_attacked_alike_in_each_table() -> None:
    attacks = {
        column.attack
        for number in ("3", "9")
        for column in table_of(number).columns
        if column.data is not None and column.data.name == "tiny-imagenet" and column.label == "PGD10"
    }
    assert attacks == {"pgd10/2/255"}
