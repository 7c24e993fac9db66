"""Model, objective and optimizer as Accelerate runs them: one optimizer step, and their whole state."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import DistributedDataParallelKwargs, broadcast
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer
from torch.optim.swa_utils import AveragedModel

from protoat.attacks.mode import check_built
from protoat.errors import NonFiniteLossError, UserError
from protoat.functional.compiled import for_any_batch
from protoat.functional.distributed import from_first_process, mean_over_processes
from protoat.methods import AWP, DAJAT, BiaMAT, Distillation, Method
from protoat.models import multi_prototype_head
from protoat.objective import Objective
from protoat.training import optimizer_state
from protoat.training.averaging import Averaging
from protoat.training.fit_arguments import Settings
from protoat.training.modes import ModuleModes
from protoat.training.nested import part, prefixed
from protoat.training.weights import learned, load_tensors, tensors_of

# What Accelerate and torch.compile leave on a module they work on.
_MARKS = ("forward", "_original_forward", "_is_accelerate_prepared", "_compiled_call_impl")


class Learner:
    """What learns, on its device; leaving it as a context takes every wrapper off the caller's model again.

    Raises:
        ValueError: a parameter that the optimizer lacks, or layers that are not built yet.
    """

    def __init__(
        self,
        model: nn.Module,
        objective: Objective,
        optimizer: Optimizer,
        accelerator: Accelerator,
        settings: Settings,
    ) -> None:
        if isinstance(model, DistributedDataParallel):
            raise UserError("the model is wrapped already; pass the module itself, fit shares it out")
        check_built(model)
        optimizer_state.check_covered(model, objective, optimizer)
        self.accelerator = accelerator
        self.unwrapped = model
        self.raw_optimizer = optimizer
        self.objective = objective.to(accelerator.device)
        self.settings = settings
        rate = "initial_lr" if settings.schedule.moves_optimizer else "lr"
        self.base_lrs = [float(group.get(rate, group["lr"])) for group in optimizer.param_groups]
        self._marks = {name: model.__dict__[name] for name in _MARKS if name in model.__dict__}
        self.modes = ModuleModes(model)
        metric = objective.regularizer
        self._all_modes = [self.modes, *([] if metric is None else [ModuleModes(metric, "regularizer")])]
        model.to(accelerator.device)
        if settings.memory_format is not None:
            model.to(memory_format=torch.channels_last)
        rule = settings.averaging
        self.average = None if rule is None else _average(model, rule)
        if settings.compile:
            model.compile()
            model._compiled_call_impl = for_any_batch(model._compiled_call_impl)  # type: ignore[arg-type]
        if accelerator.num_processes > 1:
            # Two forwards before one backward are usual here, and each would overwrite buffers the other still needs.
            accelerator.ddp_handler = accelerator.ddp_handler or DistributedDataParallelKwargs()
            accelerator.ddp_handler.broadcast_buffers = False
            for parameter in objective.parameters():
                broadcast(parameter.data)
            _share_modes(objective)
        self.model, self.optimizer = accelerator.prepare(model, optimizer)

    @property
    def deployed(self) -> nn.Module:
        """The model that is measured and exported: the average, once it has taken the model in."""
        return self.unwrapped if self.average is None or not int(self.average.n_averaged) else self.average.module

    @property
    def base_lr(self) -> float:
        """The rate that a schedule moves: the first group's, or of the first that has one where that is 0."""
        return next((lr for lr in self.base_lrs if lr), 0.0)

    def train(self) -> None:
        """Puts model and regularizer into the modes in which they learn."""
        for modes in self._all_modes:
            modes.train()

    def step(self, loss: Tensor, lr: float | None) -> None:
        """One optimizer step at learning rate `lr` (None: as it is); every group keeps its ratio to `base_lr`."""
        for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            if lr is not None:
                group["lr"] = lr * (base / self.base_lr)
        self.optimizer.zero_grad()
        self.accelerator.backward(loss)
        if self.accelerator.num_processes > 1:
            # The objective is not inside the wrapper that averages the model's gradients.
            for parameter in self.objective.parameters():
                own = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
                parameter.grad = mean_over_processes(own)
        if self.settings.clip_norm is not None:
            learnt = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            self.accelerator.clip_grad_norm_(learnt, self.settings.clip_norm)
        self.optimizer.step()

    def average_weights(self) -> None:
        """The average takes the model in. Never within a batch, when a method may hold weights displaced."""
        if self.average is not None:
            self.average.update_parameters(self.unwrapped)
            for module, mean in zip(self.unwrapped.modules(), self.average.module.modules(), strict=True):
                if type(module).get_extra_state is not nn.Module.get_extra_state:
                    mean.set_extra_state(copy.deepcopy(module.get_extra_state()))

    def merge_in_average(self, pairs: list[list[int]]) -> None:
        """What merged in the model's head merges in the average's, whose scores would else lack what was given up."""
        head = None if self.average is None else multi_prototype_head(self.average.module)
        if pairs and head is not None:
            head.merge_pairs(torch.tensor(pairs, device=head.active.device))

    def reestimate_batch_norm(self, batches: Iterable[tuple[Any, ...]]) -> None:
        """Statistics of the average's batch norm become the mean over the forwards its method makes on these batches.

        The method's own state is as before afterwards; no step is taken.
        """
        if self.average is None:
            return
        network, method = self.average.module, self.objective.method
        state = {key: value.detach().clone() for key, value in method.state_dict().items()}
        self.modes.train(network)
        norms = [m for m in network.modules() if isinstance(m, _BatchNorm) and m.training]
        if not norms:
            return
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            # A plain mean over all forwards; the old statistics serve until the first, for the attack.
            if norm.num_batches_tracked is not None:
                norm.num_batches_tracked.zero_()
            norm.momentum = None
        for x, y, *origin in batches:
            method.at_images(*origin)
            with torch.no_grad(), closing(method.updates(network, x, y)) as updates:  # type: ignore[type-var]
                next(updates)
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum
        method.load_state_dict(state)

    def check_finite(self, update: int, epoch: int) -> None:
        """Refuses weights that a step has spoilt although its loss was finite; the same in every process.

        Raises:
            NonFiniteLossError: its term is ``"weights"``.
        """
        for parameter in (*self.unwrapped.parameters(), *self.objective.parameters()):
            if not bool(parameter.isfinite().all()):
                raise NonFiniteLossError("weights", float("nan"), update, epoch)

    def synchronise_batch_norm(self) -> None:
        """Gives every process the mean of all processes' running statistics."""
        for model in (self.unwrapped, *([] if self.average is None else [self.average])):
            for module in model.modules():
                for statistic in (module.running_mean, module.running_var) if isinstance(module, _BatchNorm) else ():
                    if statistic is not None:
                        statistic.copy_(mean_over_processes(statistic))

    def state(self) -> tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Any]]:
        """Tensors common to all processes, tensors of this process (they win), and JSON values."""
        optimizer, plain = optimizer_state.flatten(self.optimizer)
        common = prefixed("model", tensors_of(self.unwrapped)) | prefixed("optimizer", optimizer)
        lasting = learned(self.objective.regularizer)
        passing = {key: value for key, value in self.objective.state_dict().items() if key not in lasting}
        own = prefixed("objective", lasting) | prefixed("process", passing)
        own |= prefixed("model", _buffers(self.unwrapped))
        if self.average is not None:
            common |= prefixed("average", tensors_of(self.average))
            own |= prefixed("average", _buffers(self.average))
        scaler = self.accelerator.scaler
        return common, own, {"optimizer": plain, "scaler": None if scaler is None else scaler.state_dict()}

    def restore(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]) -> None:
        """Takes back what `state` gave."""
        tensors = _renamed(tensors, self.objective.method)
        load_tensors(self.unwrapped, part("model", tensors))
        optimizer_state.unflatten(self.optimizer, part("optimizer", tensors), plain["optimizer"])
        device = self.accelerator.device
        own = part("objective", tensors) | part("process", tensors)
        self.objective.load_state_dict({key: value.to(device) for key, value in own.items()})
        if self.average is not None:
            load_tensors(self.average, part("average", tensors))
        if self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(plain["scaler"])

    def __enter__(self) -> Learner:
        return self

    def __exit__(self, *_: object) -> None:
        for name in _MARKS:
            self.unwrapped.__dict__.pop(name, None)
        self.unwrapped.__dict__.update(self._marks)
        for modes in self._all_modes:
            modes.restore()
        if not self.settings.schedule.moves_optimizer:
            for group, base in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
                group["lr"] = base


def _share_modes(objective: Objective) -> None:
    """Modes that each process has found for itself, with rounding of its own, become those of the first."""
    if (modes := objective.modes) is not None:
        modes.of_image = from_first_process(modes.of_image)
        if objective.weighting is not None:
            objective.weighting.count(*modes.all_groups())


def _average(model: nn.Module, averaging: Averaging) -> AveragedModel:
    def mix(average: Sequence[Tensor], present: Sequence[Tensor], _: Any) -> None:
        share = averaging.share(int(averaged.n_averaged))
        with torch.no_grad():
            for mean, value in zip(average, present, strict=True):
                if mean.is_floating_point():
                    mean.lerp_(value, share)
                else:
                    mean.copy_(value)

    averaged = AveragedModel(model, multi_avg_fn=mix, use_buffers=True)
    return averaged


def _buffers(module: nn.Module) -> dict[str, Tensor]:
    """Buffers that are part of the state; batch norm moves them differently in each process."""
    state = module.state_dict()
    return {name: state[name] for name, _ in module.named_buffers() if name in state}


def _renamed(tensors: Mapping[str, Tensor], method: Method) -> dict[str, Tensor]:
    """The tensors of a checkpoint as they are called now.

    Earlier versions called what belonged to one process ``objective.method.*``, without the names of submodules.
    """
    found = dict(tensors)
    for key in tensors:
        name = key.removeprefix("objective.method.")
        if name != key:
            new = name if name.startswith("regularizer.") else f"method.{_within(name, method)}"
            found[f"process.{new}"] = found.pop(key)
    return found


def _within(name: str, method: Method) -> str:
    if isinstance(method, AWP):
        return f"method.{_within(name, method.method)}"
    if isinstance(method, BiaMAT):
        return name if name == "threshold" else f"head.{name}"
    return {Distillation: "teacher.", DAJAT: "second."}.get(type(method), "") + name
