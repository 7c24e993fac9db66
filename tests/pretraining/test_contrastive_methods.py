"""ACL and RoCL: what they compute, what their attacks may do, what stays untouched."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import Tensor, nn

from protoat import Linf, Objective
from protoat.data.views import RandomView
from protoat.functional.contrastive import nt_xent
from protoat.models import LeNet
from protoat.models.dual_bn import Branch, DualBatchNorm, batch_norm_branch, dual_batch_norm
from protoat.pretraining import ACL, Contrastive, RoCL
from protoat.training import fit, parameter_groups

DIGITS = RandomView.for_digits()
X, Y = torch.rand(12, 1, 12, 12, generator=torch.Generator().manual_seed(1)), torch.zeros(12, dtype=torch.int64)


def acl(mode: str = "DS") -> tuple[nn.Module, Contrastive]:
    model = dual_batch_norm(LeNet(2, 1, 12))
    method = ACL(Linf(0.3), mode=mode, steps=3, width=16, view=DIGITS)
    method.prepare(model)
    return model, method


def rocl() -> tuple[nn.Module, Contrastive]:
    model = LeNet(2, 1, 12)
    method = RoCL(Linf(0.3), steps=3, hidden=16, out=8, view=DIGITS)
    method.prepare(model)
    return model, method


CASES: list[Callable[[], tuple[nn.Module, Contrastive]]] = [
    rocl,
    acl,
    *(lambda m=m: acl(m) for m in ("S2S", "A2A", "A2S")),
]


@pytest.mark.parametrize("build", CASES)
def test_one_update_trains_encoder_and_projector_and_never_looks_at_labels(
    build: Callable[[], tuple[nn.Module, Contrastive]],
) -> None:
    losses = []
    for labels in (Y, Y + 1):
        torch.manual_seed(3)
        model, method = build()
        (terms,) = Objective(method).losses(model, X, labels)
        terms.total.backward()
        losses.append(terms.total.item())
        assert model.features[0].weight.grad.abs().sum() > 0
        assert all(p.grad is None or p.grad.isfinite().all() for p in method.parameters())
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in method.parameters())
    assert losses[0] == losses[1]


def projected(method: Contrastive, model: nn.Module, x: Tensor, branch: str | None) -> Tensor:
    model.eval(), method.head.eval()
    with torch.no_grad():
        if branch is None:
            return method.head(model(x).embedding)
        with batch_norm_branch(model, branch), batch_norm_branch(method.head, branch):  # type: ignore[arg-type]
            return method.head(model(x).embedding)


def assert_legal(attacked: Tensor, clean: Tensor) -> None:
    assert (attacked - clean).abs().max() <= 0.3 + 1e-6
    assert attacked.min() >= 0
    assert attacked.max() <= 1


def test_acl_attack_raises_the_contrastive_loss_inside_the_budget() -> None:
    model, method = acl()
    assert isinstance(method, ACL)
    both = torch.cat([X, X.roll(1, 0)])
    attacked = method.attack_both(model, both, torch.Generator().manual_seed(0))
    loss = [nt_xent(projected(method, model, images, "adv").view(2, 12, -1)) for images in (both, attacked)]
    assert loss[1] > loss[0] + 0.05
    assert_legal(attacked, both)


def test_acl_attack_on_one_view_drives_it_from_the_clean_one() -> None:
    model, method = acl("A2S")
    assert isinstance(method, ACL)
    attacked = method.attack_first(model, X, X, torch.Generator().manual_seed(0))
    partner = projected(method, model, X, "clean")
    noise = (X + 0.3 * torch.randn_like(X).sign()).clamp(0, 1)
    clean, random, adversarial = (
        nt_xent(torch.stack([projected(method, model, images, "adv"), partner])) for images in (X, noise, attacked)
    )
    assert adversarial - clean > 1.5 * (random - clean).abs()
    assert_legal(attacked, X)


def test_rocl_attack_drives_the_first_view_from_the_second() -> None:
    model, method = rocl()
    assert isinstance(method, RoCL)
    attacked = method.attack_views(model, X, X, torch.Generator().manual_seed(0))
    partner = projected(method, model, X, None)
    noise = (X + 0.3 * torch.randn_like(X).sign()).clamp(0, 1)
    clean, random, adversarial = (
        nt_xent(torch.stack([projected(method, model, images, None), partner])) for images in (X, noise, attacked)
    )
    assert adversarial - clean > 1.5 * (random - clean).abs()
    assert_legal(attacked, X)


@pytest.mark.parametrize(
    ("mode", "moved"), [("S2S", {"clean"}), ("A2A", {"adv"}), ("A2S", {"adv", "clean"}), ("DS", {"adv", "clean"})]
)
def test_each_branch_sees_only_its_images_and_none_of_the_attack(mode: str, moved: set[str]) -> None:
    model, method = acl(mode)
    layers = [layer for whole in (model, method.head) for layer in whole.train().modules()]
    dual = [layer for layer in layers if isinstance(layer, DualBatchNorm)]
    assert len(dual) == 2 + 3
    before = [{branch: getattr(layer, branch).running_mean.clone() for branch in ("clean", "adv")} for layer in dual]
    next(iter(Objective(method).losses(model, X, Y)))
    for layer, old in zip(dual, before, strict=True):
        for branch in ("clean", "adv"):
            norm = getattr(layer, branch)
            assert norm.num_batches_tracked == (branch in moved)
            assert torch.equal(norm.running_mean, old[branch]) == (branch not in moved)


@pytest.mark.parametrize(("mode", "unused"), [("S2S", "adv"), ("A2A", "clean"), ("A2S", None), ("DS", None)])
def test_the_encoder_learns_all_but_the_head_and_a_branch_that_nobody_uses(mode: str, unused: str | None) -> None:
    encoder = ACL(Linf(0.3), mode=mode).encoder(LeNet(2, 1, 12))  # type: ignore[arg-type]
    for name, parameter in encoder.named_parameters():
        assert parameter.requires_grad == (not name.startswith("head.") and f".{unused}." not in name), name
    plain = RoCL(Linf(0.3)).encoder(LeNet(2, 1, 12))
    assert [name for name, p in plain.named_parameters() if not p.requires_grad] == ["head.weight", "head.bias"]


@pytest.mark.parametrize(
    ("method", "branch"),
    [(ACL(Linf(0.3)), "adv"), (ACL(Linf(0.3), mode="S2S"), "clean"), (RoCL(Linf(0.3)), None)],
    ids=["ACL", "S2S", "RoCL"],
)
def test_the_pretrained_network_is_plain_and_learns_as_a_whole(method: Contrastive, branch: Branch | None) -> None:
    encoder = method.encoder(LeNet(2, 1, 12))
    for parameter in encoder.parameters():
        nn.init.normal_(parameter)  # the branches differ
    with batch_norm_branch(encoder, branch) if branch else nullcontext(), torch.no_grad():
        expected = encoder.eval()(X)
    model = method.classifier(encoder)
    assert model.state_dict().keys() == LeNet(2, 1, 12).state_dict().keys()
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(model(X).logits, expected.logits)


def test_views_that_nobody_chose_suit_the_images() -> None:
    method = RoCL(Linf(0.3))
    for channels, suited in ((1, RandomView.for_digits()), (3, RandomView.for_colour())):
        x = torch.rand(4, channels, 12, 12)
        torch.manual_seed(5)
        views, _ = method.two_views(x)
        torch.manual_seed(5)
        generator = method.generator(x)
        assert torch.equal(views, torch.stack([suited(x, generator), suited(x, generator)]))


def test_ds_is_the_mean_of_its_two_streams() -> None:
    model, method = acl("DS")
    views = next(iter(method.updates(model, X, Y)))
    assert views.clean is not None
    adv, clean = (
        nt_xent(_head(method, out.embedding, branch).view(2, 12, -1))
        for out, branch in ((views.adv, "adv"), (views.clean, "clean"))
    )
    torch.testing.assert_close(method.loss(views, Y), (adv + clean) / 2)


def _head(method: Contrastive, embedding: Tensor, branch: str) -> Tensor:
    with batch_norm_branch(method.head, branch):  # type: ignore[arg-type]
        return method.head(embedding)


def test_rocl_loss_is_the_sum_of_its_two_terms() -> None:
    model, method = rocl()
    views = next(iter(method.updates(model, X, Y)))
    assert views.clean is not None
    three = nt_xent(method.head(views.clean.embedding).view(3, 12, -1))
    two = nt_xent(method.head(views.adv.embedding).view(2, 12, -1))
    torch.testing.assert_close(method.loss(views, Y), three + two / 256)


@pytest.mark.parametrize("build", [rocl, acl])
def test_fit_trains_it_like_any_method_and_the_loss_falls(build: Callable[[], tuple[nn.Module, Contrastive]]) -> None:
    model, method = build()
    objective = Objective(method)
    optimizer = torch.optim.Adam(parameter_groups(model, objective, lr=3e-3))
    result = fit(model, [(X, Y)] * 5, objective, epochs=6, optimizer=optimizer)
    assert result.metrics[-1]["base"] < result.metrics[0]["base"] - 0.02


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="mode='D2D'"):
        ACL(Linf(0.3), mode="D2D")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="regularizer_scale"):
        RoCL(Linf(0.3), regularizer_scale=0)
    with pytest.raises(RuntimeError, match="prepare"):
        _ = ACL(Linf(0.3)).head
    method = ACL(Linf(0.3), view=DIGITS)
    plain = LeNet(2, 1, 12)
    method.prepare(plain)
    with pytest.raises(ValueError, match="dual_batch_norm"):
        next(iter(method.updates(plain, X, Y)))
