"""What `print`, `repr` and notebooks show of results."""

from __future__ import annotations

import pytest
import torch

import protoat as pa

IMAGES = pa.regroup(pa.Digits().load("test"), 2)


@pytest.fixture(scope="module")
def run() -> pa.Run:
    return pa.Run("zoo:digits-2")


@pytest.fixture(scope="module")
def report(run: pa.Run) -> pa.Report:
    return pa.evaluate(run.model, IMAGES, ["clean", "pgd2"], threat=run.threat)


def test_a_report_and_a_record_are_readable(run: pa.Run, report: pa.Report) -> None:
    record = run.evaluation
    assert repr(report).startswith("Report(2 attacks on 500 images, worst case ")
    assert repr(report["clean"]) == "AttackReport(96.8 [94.9, 98.0] % of 500 images)"
    assert "tensor(" not in repr(record) + str(record)
    assert str(record).splitlines()[0] == "best.safetensors, 500 images of Digits test, linf 0.1"
    assert str(report).splitlines()[1].split()[:2] == ["clean", "96.8"]
    for shown in (report, record):
        page = shown._repr_html_()
        assert page.count("<tr>") == len(shown.entries) + 1
        assert "<script" not in page


def test_html_holds_no_markup_of_names() -> None:
    data = pa.ImageData(torch.zeros(2, 1, 8, 8).byte(), torch.tensor([0, 1]), ("<script>alert(1)</script>", "b"))
    found = pa.evaluate(lambda x: torch.zeros(len(x), 2), data, {"clean": None})
    assert "<script" not in found._repr_html_()


def test_a_recipe_prints_as_its_file(run: pa.Run) -> None:
    assert str(run.recipe) == run.recipe.text
    assert "class_path: protoat.methods.PGDAT" in str(run.recipe)


def test_reports_are_compared_image_by_image(run: pa.Run, report: pa.Report) -> None:
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))
    other = pa.evaluate(flat, IMAGES, ["clean", "pgd2"], threat=run.threat)
    found = pa.compare(report, other)
    assert [each.attack for each in found] == ["clean", "pgd2", "worst case"]
    pair = pa.Paired.of(report["clean"].correct_mask, other["clean"].correct_mask)
    assert found[0].pair == pair
    assert str(found).splitlines()[1].endswith("a difference")
    assert found._repr_html_().count("<tr>") == 4
    assert "no difference shown" in str(pa.compare(run.evaluation, run.evaluation))
    half = pa.evaluate(flat, IMAGES.subset(torch.arange(250)), ["clean"])
    with pytest.raises(ValueError, match="250 images, there 500 images"):
        pa.compare(report, half)
    with pytest.raises(ValueError, match=r"a dict is no result of pa.evaluate"):
        pa.compare(report, {})
