"""Columns shared by several tables."""

from protoat.paper.tables.table import Line

WORST_CASE = "worst case"  # as a record calls it

CLEAN = Line("Clean", attack="clean")
FGSM = Line("FGSM", attack="fgsm")
PGD10 = Line("PGD10", attack="pgd10")
AUTOATTACK = Line("AutoAttack", attack="aa", ours=True)
