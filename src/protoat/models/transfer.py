"""Loads weights of another architecture or framework into a model, and names what does not fit."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from protoat.errors import UserError

logger = logging.getLogger(__name__)

# Prefixes of wrappers, the deployed part first: those before a model's averaged twin or its teacher are not among them.
_KNOWN = ("module.", "model.", "_orig_mod.", "net.", "backbone.", "student.")


@dataclass(frozen=True)
class LoadReport:
    """Which tensors went where.

    Attributes:
        loaded: number of the model's tensors that were filled.
        missing: names in the model for which nothing was there.
        unexpected: names that were there, and for which the model has no place.
        of_another_shape: names in the model whose counterpart has another shape, with both shapes.
        beside: names that were there outside the part whose prefix was taken away.
    """

    loaded: int
    missing: list[str]
    unexpected: list[str]
    of_another_shape: list[str]
    beside: list[str]

    def __str__(self) -> str:
        parts = {
            "missing": self.missing,
            "unexpected": self.unexpected,
            "of another shape": self.of_another_shape,
            "beside the model": self.beside,
        }
        rest = [f"{what}: {', '.join(names)}" for what, names in parts.items() if names]
        return "; ".join([f"{self.loaded} tensors loaded", *(rest or ["every name matched"])])


def transfer(tensors: Mapping[str, Tensor], model: nn.Module, *, leave: Collection[str] = ()) -> LoadReport:
    """Puts tensors into a model in place, by name and shape.

    Wrappers put prefixes before names (``module.``, ``features.``): the pair of prefixes, one of each side, under which
    most names agree is taken away first.

    Args:
        tensors: by name.
        model: whose parameters and buffers are filled.
        leave: names in the model that stay as they are and are not missed.

    Raises:
        ValueError: no name matches, or a value is no finite number.

    >>> source, target = nn.Sequential(nn.Linear(3, 2)), nn.Sequential(nn.Sequential(nn.Linear(3, 2)), nn.Linear(2, 2))
    >>> print(transfer({f"module.{name}": value for name, value in source.state_dict().items()}, target))
    2 tensors loaded; missing: 1.weight, 1.bias
    """
    own = {key: value for key, value in model.state_dict().items() if key not in leave and isinstance(value, Tensor)}
    ours, theirs = _prefixes(own, tensors)
    partner: dict[str, str] = {}
    for key in own:
        # A file may keep normalisation outside the part that a wrapper has named.
        candidates = [theirs + key.removeprefix(ours)] * key.startswith(ours) + [theirs + key]
        found = next((name for name in candidates if name in tensors and name not in partner.values()), None)
        if found is not None:
            partner[key] = found
    fitting = {key: name for key, name in partner.items() if _shape(own[key]) == _shape(tensors[name])}
    of_another_shape = [
        f"{key} {tuple(tensors[name].shape)} for {tuple(own[key].shape)}"
        for key, name in partner.items()
        if key not in fitting
    ]
    if not fitting:
        if of_another_shape:
            raise UserError(f"no tensor fits, all are of another shape: {_some(of_another_shape)}")
        raise UserError(f"no tensor fits: the file has {_some(tensors)}, the model {_some(own)}")
    broken = [name for name in fitting.values() if not bool(torch.isfinite(tensors[name]).all())]
    if broken:
        raise UserError(f"{broken[0]} holds values that are no finite numbers")
    with torch.no_grad():
        for key, name in fitting.items():
            own[key].copy_(tensors[name].view_as(own[key]))
    rest = set(tensors) - set(partner.values())
    return LoadReport(
        len(fitting),
        [key for key in own if key not in partner],
        [name for name in tensors if name in rest and name.startswith(theirs)],
        of_another_shape,
        [name for name in tensors if name in rest and not name.startswith(theirs)],
    )


def _prefixes(own: Collection[str], theirs: Mapping[str, Tensor]) -> tuple[str, str]:
    """The prefixes without which most names of the two agree; the shortest of several that do as well."""

    def without(names: Collection[str]) -> dict[str, set[str]]:
        """For every prefix: the names that have it, without it."""
        prefixes = {name[: end + 1] for name in names for end, sign in enumerate(name) if sign == "."} | {""}
        return {prefix: {name[len(prefix) :] for name in names if name.startswith(prefix)} for prefix in prefixes}

    ours = {prefix: rest for prefix, rest in without(own).items() if 2 * len(rest) >= len(own)}
    pairs = [
        (len(a & b), -len(prefix_a + prefix_b), prefix_a, prefix_b)
        for prefix_a, a in ours.items()
        for prefix_b, b in without(theirs).items()
        if min(len(a), len(b))
    ]
    best = max(pairs)
    rivals = sorted(
        {pair[3] for pair in pairs if (pair[0], pair[2]) == (best[0], best[2]) and _apart(pair[3], best[3])}
    )
    if not rivals or best[0] < len(ours[best[2]]):
        return best[2:]
    twins = [best[3], *rivals]
    known = [prefix for prefix in _KNOWN if prefix in twins]
    if not known:
        listed = " and ".join(prefix.rstrip(".") for prefix in sorted(twins))
        raise UserError(
            f"the file holds several sets that fit, {listed}; name one behind the file: FILE#{twins[0][:-1]}"
        )
    logger.warning("names that begin with %s are taken, others fit as well: %s", known[0], ", ".join(sorted(twins)))
    return best[2], known[0]


def _apart(one: str, other: str) -> bool:
    return not one.startswith(other) and not other.startswith(one)


def _shape(value: Tensor) -> tuple[int, ...]:
    """Without dimensions of one: normalisation is kept as (C,) here and as (1, C, 1, 1) there."""
    return tuple(size for size in value.shape if size > 1)


def _some(names: Collection[str]) -> str:
    return f"{', '.join(list(names)[:4])}, ..." if len(names) > 4 else ", ".join(names) or "nothing"
