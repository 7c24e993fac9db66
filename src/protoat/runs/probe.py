"""Linear evaluation of an encoder, standard and robust."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

import torch
import torch.nn.functional as F
from accelerate import PartialState
from torch import Tensor, nn

import protoat
from protoat.attacks import Attack
from protoat.data import ImageData, ImageLoader
from protoat.evaluation import attack_of_name, evaluate
from protoat.evaluation.probe import Probe
from protoat.evaluation.record import Judged
from protoat.functional.forward import output_of
from protoat.functional.images import unit_pixels
from protoat.methods import PGDAT
from protoat.models.dual_bn import Branch
from protoat.objective import Objective
from protoat.runs.images import load_images
from protoat.runs.run import Run
from protoat.runs.store import write_record
from protoat.runs.threads import on_fitting_threads
from protoat.storage.locks import working_on
from protoat.threats import ThreatModel
from protoat.training import parameter_groups
from protoat.types import Output

logger = logging.getLogger(__name__)

_WEIGHT_DECAY = 1e-4
_STEPS = 10
_LR = 1e-2
_BATCH_SIZE = 256


class LinearProbe(nn.Module):
    """A frozen encoder, always in eval mode, and a linear layer on its embeddings, which are standardised first.

    Args:
        encoder: images -> `Output`; its own logits are not used. It stops learning.
        data: training images, from which the scale of the embeddings is taken.
        device: where it computes.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, encoder: nn.Module, data: ImageData, device: torch.device | str = "cpu") -> None:
        super().__init__()
        self.encoder = encoder.requires_grad_(False).eval().to(device)
        embeddings = self.embed(data)
        self.register_buffer("mean", embeddings.mean(0))
        self.register_buffer("std", embeddings.std(0).clamp(min=1e-6))
        self.head = nn.Linear(embeddings.shape[1], data.num_classes, device=device)

    def train(self, mode: bool = True) -> LinearProbe:
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, x: Tensor) -> Output:
        embedding = (output_of(self.encoder, x).embedding - self.mean) / self.std
        return Output(self.head(embedding), embedding)

    @torch.no_grad()
    def embed(self, data: ImageData) -> Tensor:
        """(N, D) embeddings of clean images, as the encoder gives them."""
        device = next(self.encoder.parameters()).device
        batches = data.images.split(_BATCH_SIZE)
        return torch.cat([output_of(self.encoder, unit_pixels(x.to(device))).embedding for x in batches])

    def fit_clean(self, data: ImageData) -> None:
        """Solves for the head that minimises cross-entropy on clean embeddings + 1e-4 / 2 x its squared weights.

        A convex problem, so that L-BFGS in double precision finds the one answer whatever the scale of the features.
        """
        x = ((self.embed(data) - self.mean) / self.std).double()
        y = data.labels.to(x.device)
        weight, bias = (torch.zeros_like(p, dtype=torch.float64, requires_grad=True) for p in self.head.parameters())
        solver = torch.optim.LBFGS(
            [weight, bias], max_iter=500, tolerance_change=1e-13, history_size=20, line_search_fn="strong_wolfe"
        )

        def loss() -> Tensor:
            solver.zero_grad()
            value = F.cross_entropy(x @ weight.T + bias, y) + 0.5 * _WEIGHT_DECAY * weight.square().sum()
            value.backward()
            return value

        solver.step(loss)
        with torch.no_grad():
            self.head.weight.copy_(weight)
            self.head.bias.copy_(bias)

    def fit_robust(
        self,
        data: ImageData,
        threat: ThreatModel,
        *,
        updates: int,
        seed: int,
        advance: Callable[[int], None] | None = None,
    ) -> None:
        """Goes on from there by adversarial training of the head alone, against attacks through head and encoder.

        Args:
            advance: called with the number of updates after each.
        """
        objective = Objective(PGDAT(threat, steps=_STEPS))
        optimizer = torch.optim.Adam(parameter_groups(self, objective, lr=_LR, weight_decay=_WEIGHT_DECAY))
        decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, updates)
        loader = ImageLoader(data, batch_size=_BATCH_SIZE, seed=seed, device=self.head.weight.device)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            for update in range(updates):
                if update % len(loader) == 0:
                    loader.set_epoch(update // len(loader))
                    batches = iter(loader)
                for terms in objective.losses(self.train(), *next(batches)):
                    optimizer.zero_grad()
                    terms.total.backward()
                    optimizer.step()
                decay.step()
                if advance is not None:
                    advance(update + 1)
                if (update + 1) % 100 == 0:
                    logger.info("robust head: update %d of %d, loss %.3f", update + 1, updates, terms.total.item())


def probe_run(
    folder: Path | str,
    *,
    weights: Literal["best", "last"] | None = None,
    branch: Branch | None = None,
    attacks: Sequence[str] = ("clean", "pgd20"),
    updates: int = 1000,
    limit: int | None = None,
    batch_size: int = 256,
    advance: Callable[[float, float, str], None] | None = None,
) -> Probe:
    """Linear evaluation of a run's encoder and, for comparison, of the same network with its first random weights.

    Two heads are trained for each, with labels: ``standard`` on clean embeddings (linear evaluation), and ``robust``
    on adversarial images (robust linear evaluation). What they come to is written to ``probe.json``, where attacks
    measured before stay if they saw the same weights and images.

    Args:
        folder: of a run, pre-trained or trained.
        weights, branch: see `Run.network`.
        attacks: what the heads are measured under, see `attack_of_name`; the radius is that of the recipe.
        updates: of the robust head, on batches of 256 under PGD-10.
        limit, batch_size: see `protoat.evaluate`.
        advance: called with the updates of robust heads that are done, how many there will be, and which head is next.

    Returns:
        What the record now holds.

    Raises:
        ValueError: see `Run.network`, `attack_of_name` and `protoat.evaluate`; or another process is at work there.
        DataNotFoundError: the images are not there.
        DiskError: the record cannot be written.

    Source: linear and robust linear evaluation of Kim et al., NeurIPS 2020 (RoCL), which train 150 epochs of SGD.
    Deviation: the clean head is solved for, and the robust one begins there.
    """
    run = Run(folder)
    run.check()
    model, branch = run.network(weights, branch=branch)
    recipe, threat, read = run.recipe, run.threat, run.weights(weights)
    chosen: dict[str, Attack | None] = {name: attack_of_name(name, threat) for name in attacks}
    train, test = load_images(recipe, "train"), load_images(recipe, "test")
    before = run.probe
    with torch.random.fork_rng():
        torch.manual_seed(recipe.seed)
        untrained = run.untrained()
    few = train.pixels(slice(_BATCH_SIZE))
    with working_on(run.path), on_fitting_threads(model, few, PartialState()):
        judge = partial(evaluate, data=test, attacks=chosen, limit=limit, batch_size=batch_size)
        encoders = {}
        for number, (name, encoder) in enumerate((("trained", model), ("random", untrained))):

            def done(update: int, before: int = number * updates, name: str = name) -> None:
                if advance is not None:
                    advance(before + update, 2 * updates, f"robust head on the {name} encoder")

            logger.info("%s encoder: linear heads on %d training images", name, len(train))
            probe = LinearProbe(encoder, train, PartialState().device)
            probe.fit_clean(train)
            standard = judge(probe)
            probe.fit_robust(train, recipe.threat, updates=updates, seed=recipe.seed, advance=done)
            encoders[name] = {"standard": standard.attacks, "robust": judge(probe).attacks}
        subject = Judged(
            read.path.name,
            recipe.data.name,
            min(limit or len(test), len(test)),
            read.sha256,
            test.digest(),
            more={"branch": branch, "train_images": len(train)},
        )
        robust = {"attack": f"pgd{_STEPS}", "updates": updates, "batch_size": _BATCH_SIZE, "lr": _LR}
        how = {
            "standard": {"solver": "L-BFGS", "weight_decay": _WEIGHT_DECAY},
            "robust": {**robust, "weight_decay": _WEIGHT_DECAY},
        }
        probed = Probe(subject, encoders, how)
        if before is not None:
            probed = probed.with_earlier(before)
        versions = {"protoat": protoat.__version__, "torch": torch.__version__}
        write_record(run.path / "probe.json", json.dumps({**probed.to_json(), **versions}, indent=1))
    return probed
