"""Networks of timm and torchvision as ours: their own embedding and normalisation, in recipes too."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torchvision
from torch import nn

from protoat.models import TimmModel, TorchvisionModel
from protoat.recipes.reading import read_recipe, recipe_from_text
from protoat.runs.network import build_network, call_builder
from protoat.runs.run import Run
from protoat.runs.train import train

IMAGES = torch.rand(2, 3, 32, 32)
SHORT = ["--epochs", "1", "--validation_size", "50", "--method.steps", "1", "--schedule", "none", "--batch_size", "512"]
timm = pytest.importorskip("timm")


@pytest.mark.parametrize("name", ["test_resnet", "test_vit", "test_convnext"])
def test_timm_gives_the_embedding_of_its_own_head(name: str) -> None:
    model = TimmModel(5, 3, 32, name=name).eval()
    sized = {"img_size": 32} if "vit" in name else {}
    theirs = timm.create_model(name, num_classes=7, **sized).eval()
    theirs.load_state_dict(model.features.state_dict(), strict=False)
    mean, std = (torch.tensor(theirs.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        logits, embedding = model(IMAGES)
        maps = theirs.forward_features((IMAGES - mean) / std)
        torch.testing.assert_close(embedding, theirs.forward_head(maps, pre_logits=True), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(logits, model.head(embedding))
    assert logits.shape == (2, 5)


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "squeezenet1_0"])
def test_torchvision_gives_what_its_last_linear_layer_is_given(name: str) -> None:
    if name == "squeezenet1_0":
        with pytest.raises(ValueError, match="no linear layer"):
            TorchvisionModel(5, 3, 32, name=name)
        return
    model = TorchvisionModel(1000, 3, 32, name=name).eval()
    theirs = torchvision.models.get_model(name, weights=None).eval()
    theirs.load_state_dict(model.features.state_dict(), strict=False)
    theirs.classifier[-1] = model.head
    mean, std = (torch.tensor(value).view(3, 1, 1) for value in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    with torch.no_grad():
        torch.testing.assert_close(model(IMAGES).logits, theirs((IMAGES - mean) / std))
    assert model(IMAGES).embedding.shape == (2, 1024)


def test_any_number_of_channels_and_a_normalisation_of_ones_own() -> None:
    assert isinstance(TimmModel(2, 1, 8, name="test_resnet").normalize, nn.Identity)  # its mean is of three channels
    own = TimmModel(2, 3, 16, name="test_resnet", mean=[0.0] * 3, std=[1.0] * 3)
    assert torch.equal(own.normalize(IMAGES), IMAGES)


@pytest.mark.parametrize(
    ("make", "name", "said"),
    [
        (TimmModel, "test_resnt", "timm:test_resnt is unknown; did you mean 'test_resnet'"),
        (TimmModel, "hf-hub:someone/net", "timm:hf-hub:someone/net is unknown"),
        (TimmModel, "local-dir:/tmp", "timm:local-dir:/tmp is unknown"),
        (TorchvisionModel, "resnet19", "torchvision:resnet19 is unknown; did you mean"),
        (TorchvisionModel, "alexnet", "torchvision:alexnet cannot take images of 3x16x16"),
    ],
)
def test_what_cannot_be_had_is_said(make: type[TimmModel], name: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        make(2, 3, 16, name=name)


def test_a_recipe_names_it_and_its_run_is_rebuilt(tmp_path: Path) -> None:
    recipe = read_recipe("digits-2", ["--model", "timm:test_resnet.r160_in1k", "--regularizer", "none", *SHORT])
    assert "class_path: protoat.models.TimmModel" in recipe.text
    assert not recipe.trust
    train(recipe, tmp_path / "run", progress=False)
    run = Run(tmp_path / "run")
    assert isinstance(run.model, TimmModel)
    assert len(run.predict(torch.rand(3, 1, 8, 8))) == 3
    with pytest.raises(ValueError, match=r"timm:os.system is unknown"):
        build_network(recipe_from_text(recipe.text.replace("test_resnet.r160_in1k", "os.system")), 2, (1, 8, 8))


class Swapped(nn.Module):
    """Takes the facts in an order of its own."""

    def __init__(self, in_channels: int, num_classes: int, *, width: int = 3) -> None:
        super().__init__()
        self.facts = in_channels, num_classes, width


def _of_two(num_classes: int, in_channels: int) -> tuple[int, int]:
    return num_classes, in_channels


def _handed_on(**options: int) -> tuple[int, int]:
    return _of_two(**options)


def _renamed(classes: int, channels: int, size: int) -> tuple[int, int, int]:
    return classes, channels, size


def test_a_builder_is_told_what_it_has_arguments_for() -> None:
    assert call_builder("x", Swapped, 10, 3, 32).facts == (3, 10, 3)
    assert call_builder("x", _of_two, 10, 3, 32) == (10, 3)
    assert call_builder("x", _handed_on, 10, 3, 32) == (10, 3)
    assert call_builder("x", _renamed, 10, 3, 32) == (10, 3, 32)
    for wrong in (lambda depth, width, num_classes=10: depth, lambda num_classes, depth, width: depth):
        with pytest.raises(ValueError, match="x needs depth, width, and a builder is told num_classes, in_channels"):
            call_builder("x", wrong, 10, 3, 32)


def test_a_recipe_tells_a_class_by_name() -> None:
    recipe = read_recipe("digits-2", ["--model", f"{__name__}.Swapped", "--regularizer", "none"])
    assert build_network(recipe, 10, (3, 8, 8)).facts == (3, 10, 3)
