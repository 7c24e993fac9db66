"""The projection between embeddings and prototypes, for every regularizer that has some."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import protoat.regularizers
from protoat import Objective, with_embedding
from protoat.attacks import ApproachWrong, LeaveOwn, PrototypeClassifier, WithSoftTriple
from protoat.methods import PGDAT
from protoat.regularizers import SoftTriple
from protoat.regularizers.projection import Projection, ProxyRegularizer
from protoat.threats import Linf
from protoat.training import fit, parameter_groups
from protoat.types import Output
from tests.contracts import parts

METRICS = parts.concrete(ProxyRegularizer, protoat.regularizers)
KINDS = ["batchnorm", "linear+batchnorm", "mlp"]


def batch(B: int = 12, C: int = 3, D: int = 6) -> tuple[Tensor, Tensor]:
    """Embeddings as after a ReLU, and labels."""
    return torch.randn(B, D).relu() * 3, torch.arange(B) % C


def slow(projection: Projection, z: Tensor) -> Tensor:
    """Projection in train mode, written from the definition of batch norm, in double precision."""

    def standardised(x: Tensor) -> Tensor:
        return (x - x.mean(0)) / (x.var(0, unbiased=False) + 1e-5).sqrt()

    x, weights = z.double(), [p.double() for p in projection.parameters() if p.dim() == 2]
    if projection.kind == "mlp":
        x = standardised(x @ weights[0].T).relu()
        weights = weights[1:]
    return standardised(x @ weights[0].T if weights else x)


@pytest.mark.parametrize("kind", KINDS)
def test_against_the_definition_of_batch_norm(kind: Any) -> None:
    z, _ = batch()
    projection = Projection(kind, 6)
    torch.testing.assert_close(projection(z).double(), slow(projection, z), rtol=1e-4, atol=1e-5)
    assert not any(p.dim() == 1 for p in projection[-1].parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("build", METRICS)
def test_prototypes_see_what_it_gives(build: Any, kind: Any) -> None:
    z, y = batch()
    z.requires_grad_()
    metric, plain = build(3, 6, projection=kind), build(3, 6, projection=None)
    shared = plain.state_dict()
    plain.load_state_dict({key: value for key, value in metric.state_dict().items() if key in shared})
    value = metric(z, y)
    torch.testing.assert_close(value, plain(slow(metric.project, z).float(), y), rtol=1e-4, atol=1e-5)
    value.backward()
    assert z.grad is not None
    assert bool(z.grad.any())
    assert all(p.grad is not None and bool(p.grad.any()) for p in metric.parameters())


@pytest.mark.parametrize("build", METRICS)
def test_only_a_step_of_training_moves_its_statistics(build: Any) -> None:
    z, y = batch()
    metric = build(3, 6)
    metric(z, y)
    moved = copy.deepcopy(metric.state_dict())
    torch.testing.assert_close(metric.project[-1].running_mean, 0.1 * z.mean(0))
    seen = metric.projected(z)
    assert metric.project.training
    torch.testing.assert_close(
        seen, F.batch_norm(z, metric.project[-1].running_mean, metric.project[-1].running_var), rtol=1e-4, atol=1e-5
    )
    assert torch.equal(metric.eval().project(z), seen)
    metric(z, y)
    if isinstance(metric, SoftTriple):
        metric.train().predict(z)
        PrototypeClassifier(Given(), metric.prototypes, metric.active, projection=metric.project)(z)
    assert all(torch.equal(value, moved[key]) for key, value in metric.state_dict().items())


class Given(nn.Module):
    """Images that are embeddings."""

    def forward(self, x: Tensor) -> Output:
        return Output(torch.zeros(len(x), 3), x)


def test_what_knows_the_prototypes_goes_through_it() -> None:
    z, y = batch()
    metric = SoftTriple(3, 6, projection="mlp")
    metric(z, y)
    arguments, kept = (metric.prototypes, metric.active), metric.eval().state_dict()
    classifier = PrototypeClassifier(Given(), *arguments, scale=20.0, projection=metric.project)
    similarity = metric.similarity(z)
    torch.testing.assert_close(classifier(z).logits, 20 * similarity)
    output = Output(torch.zeros(12, 3), z)
    torch.testing.assert_close(
        LeaveOwn(*arguments, projection=metric.project)(output, y), -similarity[torch.arange(12), y]
    )
    combined = WithSoftTriple(*arguments, weight=1.0, projection=metric.project)(output, y)
    margin = 0.01 * F.one_hot(y, 3)
    expected = F.cross_entropy(output.logits, y) + F.cross_entropy(20 * (similarity - margin), y, reduction="none")
    torch.testing.assert_close(combined, expected)
    unit, w = F.normalize(metric.projected(z)), F.normalize(metric.prototypes, dim=2)
    cosine = torch.einsum("bd,ckd->bck", unit, w).amax(2).masked_fill(F.one_hot(y, 3).bool(), -2).amax(1)
    approach = ApproachWrong(*arguments, projection=metric.project)
    torch.testing.assert_close(approach(output, y), cosine)
    assert approach.__qualname__ == "ApproachWrong(gamma=0.3, projection=mlp)"
    assert LeaveOwn(*arguments).__qualname__ == "LeaveOwn(gamma=0.3)"
    assert all(torch.equal(value, kept[key]) for key, value in metric.state_dict().items())


def network() -> nn.Module:
    return with_embedding(nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), layer="2")


def test_clean_and_adversarial_halves_have_statistics_of_their_own() -> None:
    (adversarial, y), (clean, _) = batch(), batch()
    metric = SoftTriple(3, 6)
    other, plain = copy.deepcopy(metric), SoftTriple(3, 6, projection=None)
    plain.load_state_dict({key: value for key, value in metric.state_dict().items() if "project." not in key})
    value = metric.of_both(adversarial, clean, y)
    halves = torch.cat([slow(metric.project, adversarial), slow(metric.project, clean)]).float()
    torch.testing.assert_close(value, plain(halves, torch.cat([y, y])), rtol=1e-4, atol=1e-5)
    other(adversarial, y)
    other(clean, y)
    assert torch.equal(metric.project[-1].running_var, other.project[-1].running_var)
    model, objective = network(), Objective(PGDAT(Linf(0.1), steps=1), SoftTriple(3, 6), dml_input="both")
    for terms in objective.losses(model, torch.rand(6, 1, 2, 2), torch.arange(6) % 3):
        terms.total.backward()
    assert objective.regularizer is not None
    assert objective.regularizer.get_buffer("project.0.num_batches_tracked") == 2


def test_its_layers_learn_as_the_network_and_prototypes_at_their_own_rate() -> None:
    model, metric = network(), SoftTriple(3, 6, projection="mlp")
    groups = parameter_groups(model, Objective(PGDAT(Linf(0.1)), metric), lr=0.1, prototype_lr_factor=3, weight_decay=1)
    held = [{id(parameter) for parameter in group["params"]} for group in groups]
    assert held[0] == {id(parameter) for parameter in (*model.parameters(), *metric.project.parameters())}
    assert held[1] == {id(metric.prototypes)}


def test_fit_trains_it_in_the_mode_in_which_it_came() -> None:
    frozen, measured = SoftTriple(3, 6), SoftTriple(3, 6).eval()
    frozen.project.eval()
    for metric in (frozen, measured):
        model, objective = network(), Objective(PGDAT(Linf(0.1), steps=1), metric)
        optimizer = torch.optim.SGD(parameter_groups(model, objective, lr=0.1))
        fit(model, [(torch.rand(6, 1, 2, 2), torch.arange(6) % 3)], objective, epochs=2, optimizer=optimizer)
    assert frozen.project[-1].num_batches_tracked == 0
    assert measured.project[-1].num_batches_tracked == 2
    assert frozen.training
    assert not measured.training


def test_mistakes_are_told() -> None:
    with pytest.raises(ValueError, match=r"projection='whiten' is unknown; write 'batchnorm', .* or none"):
        SoftTriple(3, 6, projection="whiten")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="one image has no variance"):
        SoftTriple(3, 6)(torch.rand(1, 6), torch.tensor([0]))
    one = [(torch.rand(1, 1, 2, 2), torch.tensor([0]))]
    model, objective = network(), Objective(PGDAT(Linf(0.1), steps=1), SoftTriple(3, 6))
    loader = torch.utils.data.DataLoader(
        torch.utils.data.TensorDataset(one[0][0].expand(5, 1, 2, 2), torch.arange(5) % 3), 2
    )
    optimizer = torch.optim.SGD(parameter_groups(model, objective, lr=0.1))
    with pytest.raises(ValueError, match=r"holds one image.*regularizer\.project\.0"):
        fit(model, loader, objective, epochs=1, optimizer=optimizer)
