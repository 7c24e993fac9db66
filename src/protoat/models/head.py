"""Finds and replaces the head of a classifier."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

from protoat.arguments import check_kind
from protoat.errors import UserError
from protoat.models.multi_prototype import MultiPrototypeHead

Head = nn.Linear | MultiPrototypeHead
Model = TypeVar("Model", bound=nn.Module)


def classifier_head(model: nn.Module) -> Head:
    """The head of `model`: a `MultiPrototypeHead`, else ``model.head``, else the last linear layer.

    Args:
        model: a classifier, also within a wrapper.

    Raises:
        ValueError: it has no linear layer.

    >>> classifier_head(nn.Sequential(nn.Flatten(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))).out_features
    2
    """
    found = multi_prototype_head(model)
    if found is not None:
        return found
    own = getattr(model, "head", None)
    if isinstance(own, nn.Linear):
        return own
    layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise UserError(f"{type(model).__name__} has no linear layer that could be its head")
    return layers[-1]


def multi_prototype_head(model: nn.Module) -> MultiPrototypeHead | None:
    """The `MultiPrototypeHead` of `model`, also within wrappers; None where it has another head.

    >>> multi_prototype_head(nn.Sequential(nn.Linear(4, 2))) is None
    True
    """
    return next((module for module in model.modules() if isinstance(module, MultiPrototypeHead)), None)


def with_head(model: Model, head: nn.Module) -> Model:
    """`model`, changed in place, with another head; build its optimizer afterwards.

    Args:
        model: a classifier, whose head is what `classifier_head` finds.
        head: embeddings (B, D) to logits (B, C), such as `MultiPrototypeHead`.

    Raises:
        ValueError: no head to replace, or one of other sizes than `head`.

    >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
    >>> with_head(net, MultiPrototypeHead(4, 3, prototypes_per_class=2))[1].active.shape
    torch.Size([3, 2])
    """
    check_kind(nn.Module, model=model, head=head)
    own = classifier_head(model)
    if isinstance(head, Head) and head_sizes(head) != head_sizes(own):
        raise UserError(
            f"the head is for (embedding_dim, num_classes)={head_sizes(head)}, the model for {head_sizes(own)}"
        )
    places = [(parent, name) for parent in model.modules() for name, child in parent._modules.items() if child is own]
    if not places:
        raise UserError("the model is a head itself; give a network that contains one")
    for name in ("_forward_pre_hooks", "_forward_hooks"):  # by which a wrapper reads the embedding
        getattr(head, name).update(getattr(own, name))
    head.train(own.training).to(next(own.parameters()).device)
    for parent, name in places:
        setattr(parent, name, head)
    return model


def head_sizes(head: Head) -> tuple[int, int]:
    """Numbers of an embedding and of classes.

    >>> head_sizes(nn.Linear(4, 2))
    (4, 2)
    """
    if isinstance(head, MultiPrototypeHead):
        return head.embedding_dim, head.num_classes
    return head.in_features, head.out_features
