"""Weights of images and the choice of the best epoch by its worst mode, through `fit`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from protoat import CFOL, GroupDRO, ImageData, ImageLoader, Objective, UserError
from protoat.methods import FGSMAT, FreeAT
from protoat.records.training import Epoch, HeldOut
from protoat.training import fit
from protoat.training.validation import Validation

from .small import THREAT, Net, assert_same_outcome, digits, loader, objective, train


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


class Killed(BaseException):
    pass


def dying(epoch: int) -> ImageLoader:
    """A loader that dies in the middle of an epoch."""
    found = loader()
    whole = found.iterate

    def iterate(first: int) -> Iterator[Any]:
        for index, batch in enumerate(whole(first), first):
            if found.epoch == epoch and index == 3:
                raise Killed
            yield batch

    found.iterate = iterate  # type: ignore[method-assign]
    return found


def test_the_weights_of_classes_are_logged_and_resume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def weighted(method: str) -> Objective:
        goal = objective(method)
        goal.weighting = GroupDRO(step=0.3)
        return goal

    monkeypatch.setattr("tests.training.small.objective", weighted)
    train("fgsm", tmp_path / "whole", epochs=2, select="worst-mode")
    with pytest.raises(Killed):
        train("fgsm", tmp_path / "killed", epochs=2, select="worst-mode", train=dying(1))
    train("fgsm", tmp_path / "killed", epochs=2, select="worst-mode")
    assert_same_outcome(tmp_path / "killed", tmp_path / "whole")
    first, last = (Epoch.from_json(line) for line in lines(tmp_path / "whole"))
    assert first.group_weights is not None and len(first.group_weights) == 10
    assert sum(first.group_weights) == pytest.approx(1) and first.group_weights != last.group_weights
    best = json.loads((tmp_path / "whole/best.json").read_text())
    worst = [line["validation"]["worst_mode"] for line in lines(tmp_path / "whole")]
    assert best["worst_mode"]["correct"] / best["worst_mode"]["total"] == max(w["correct"] / w["total"] for w in worst)
    name = best["worst_mode"]["mode"]
    assert f"worst mode {best['worst_mode']['correct'] / best['worst_mode']['total']:.1%} ({name})" in str(
        HeldOut.from_json(best)
    )
    with pytest.raises(UserError, match="weighting GroupDRO there, None here"):
        monkeypatch.setattr("tests.training.small.objective", objective)
        train("fgsm", tmp_path / "whole", epochs=2, select="worst-mode")


def test_validation_names_the_mode_with_the_fewest_right_images() -> None:
    data = digits(0, 300)
    coarse = ImageData(data.images, data.labels % 2, ("even", "odd"), data.labels, data.class_names)
    torch.manual_seed(0)
    model = Net()
    model.head = torch.nn.Linear(16, 2)
    measured = Validation(coarse, None, device=torch.device("cpu"), name_worst=True)(model)
    with torch.no_grad():
        right = model.eval()(data.pixels()).logits.argmax(1) == coarse.labels
    shares = {str(d): (int(right[data.labels == d].sum()), int((data.labels == d).sum())) for d in range(10)}
    worst = measured.pop("worst_mode")
    assert shares[worst["mode"]] == (worst["correct"], worst["total"])
    assert worst["correct"] / worst["total"] == min(a / b for a, b in shares.values())
    assert measured == Validation(coarse, None, device=torch.device("cpu"))(model)


def test_worst_mode_needs_modes_to_be_known() -> None:
    with pytest.raises(UserError, match="needs held-out images whose modes are known, and none are held out"):
        train("fgsm", None, validation=None, select="worst-mode")
    with pytest.raises(UserError, match="write 'robust' or 'worst-mode'"):
        train("fgsm", None, select="worst")


def test_a_weighting_that_a_method_cannot_have_is_refused() -> None:
    from protoat.pretraining import RoCL

    class Own(FGSMAT):
        def loss(self, forwards: Any, y: Any) -> Any:
            return forwards.adv.logits.square().sum()

    with pytest.raises(UserError, match=r"write Own\.losses"):
        Objective(Own(THREAT), weighting=GroupDRO())
    with pytest.raises(UserError, match="RoCL learns without labels"):
        Objective(RoCL(THREAT), weighting=CFOL())
    with pytest.raises(TypeError, match=r"expected a Weighting; such as protoat.GroupDRO\(\)"):
        Objective(FGSMAT(THREAT), weighting=GroupDRO)  # type: ignore[arg-type]


@pytest.mark.parametrize(("replays", "told"), [(2, True), (4, False)])
def test_weights_that_hardly_move_are_told_by_what_replays_bring(
    replays: int, told: bool, caplog: pytest.LogCaptureFixture
) -> None:
    goal, net = Objective(FreeAT(THREAT, replays=replays), weighting=CFOL(step=0.01)), Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    fit(net, ImageLoader(digits(0, 40), batch_size=20), goal, epochs=1, optimizer=optimizer, progress=False)
    assert ("weights of groups hardly move" in caplog.text) == told
