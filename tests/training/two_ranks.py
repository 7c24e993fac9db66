"""Trains in two processes; run by `test_distributed.py` through ``accelerate launch``. Takes the folder to write to."""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from safetensors.torch import save_file
from torch import Tensor

from protoat.storage.files import Folder
from protoat.training import DiskError, Interrupted, checkpoint, fit, make_accelerator


class Killed(BaseException):
    """Stands for SIGKILL."""


class Hooked:
    """Calls a hook with the epoch and the batch before each batch."""

    def __init__(self, inner: Any, hook: Callable[[int, int], None]) -> None:
        self.inner, self.hook, self.epoch = inner, hook, 0

    def __len__(self) -> int:
        return len(self.inner)

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch
        self.inner.set_epoch(epoch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        for index, batch in enumerate(self.inner):
            self.hook(self.epoch, index)
            yield batch

    def iterate(self, first: int) -> Iterator[tuple[Tensor, Tensor]]:
        for index, batch in enumerate(self.inner.iterate(first), start=first):
            self.hook(self.epoch, index)
            yield batch


class Run:
    """The runs of one process."""

    def __init__(self, small: Any, out: Path, accelerator: Accelerator) -> None:
        self.small, self.out, self.accelerator = small, out, accelerator
        self.rank = accelerator.process_index

    def train(self, name: str, method: str, train: Any, **options: Any) -> Any:
        self.small.train(method, self.out / name, train=train, accelerator=self.accelerator, **options)
        return checkpoint.load_latest(self.out / name / "checkpoints")

    def share(self, **options: Any) -> Any:
        return self.small.loader(rank=self.rank, world_size=2, batch_size=20, **options)

    def data_loader(self) -> torch.utils.data.DataLoader[Any]:
        data = self.small.digits(0, 90)
        pairs = torch.utils.data.TensorDataset(data.images.float() / 255, data.labels)
        return torch.utils.data.DataLoader(pairs, batch_size=10, shuffle=True)

    def assert_same(self, one: checkpoint.Checkpoint, other: checkpoint.Checkpoint) -> None:
        """Weights, optimizer, and what each process holds for itself."""
        assert one.state["update"] == other.state["update"]
        for name in ("common", "process-0", "process-1"):
            for key, value in one.tensors(name).items():
                assert torch.equal(value, other.tensors(name)[key]), (name, key)

    def plain(self) -> None:
        """What the test compares with averaging by hand; the processes begin with different weights."""
        torch.manual_seed(100 + self.rank)
        net = self.small.Net(dropout=0.0)
        goal = self.small.objective("fgsm")
        optimizer = torch.optim.SGD(self.small.parameter_groups(net, goal, lr=0.1), momentum=0.9)
        result = fit(
            net,
            self.share(),
            goal,
            epochs=2,
            optimizer=optimizer,
            accelerator=self.accelerator,
            validation=self.small.digits(200, 800),
        )
        state = net.state_dict() | goal.state_dict()
        measured = result.metrics[-1]["validation"]
        state["measured"] = torch.tensor([measured["images"], measured["clean"], measured["robust"]]).double()
        state["base"] = torch.tensor([line["base"] for line in result.metrics], dtype=torch.float64)
        save_file(
            {key: value.contiguous() for key, value in state.items()}, self.out / f"plain-{self.rank}.safetensors"
        )

    def killed(self) -> None:
        """An interrupted run ends as a whole one, with our loader and with torch's."""

        def die(epoch: int, index: int) -> None:
            if (epoch, index) == (1, 3):
                raise Killed

        for name, method, build in (
            ("ours", "free", self.share),
            ("acl", "acl", self.share),
            ("rocl", "rocl", self.share),
            ("torchs", "pgd", self.data_loader),
        ):
            whole = self.train(f"{name}-whole", method, build(), epochs=3)
            if name == "ours":
                perturbations = [whole.tensors(f"process-{r}")["process.method.perturbation"] for r in range(2)]
                assert not torch.equal(*perturbations)
            ours = build != self.data_loader
            train = build() if ours else self.accelerator.prepare_data_loader(build())
            try:
                self.train(f"{name}-killed", method, Hooked(train, die) if ours else Dies(train, die), epochs=3)
            except Killed:
                pass
            else:
                raise AssertionError("was not killed")
            self.assert_same(self.train(f"{name}-killed", method, build(), epochs=3), whole)

    def pretraining(self) -> None:
        """Encoder and projector learn the same in both processes, which saw different images, also in one branch."""
        for name in ("acl-a2a", "acl", "rocl"):
            found = self.train(name, name, self.share(), epochs=1)
            projectors = [
                {key: value for key, value in found.tensors(f"process-{rank}").items() if ".projector." in key}
                for rank in range(2)
            ]
            learned = [key for key in projectors[0] if key.endswith(("weight", "bias"))]
            assert learned
            for key in learned:
                assert torch.equal(projectors[0][key], projectors[1][key]), key

    def stopped(self) -> None:
        """A signal that reaches one process stops both at the same batch, and the run can go on."""

        def stop(epoch: int, index: int) -> None:
            if self.rank == 1 and (epoch, index) == (1, 2):
                os.kill(os.getpid(), signal.SIGTERM)

        try:
            self.train("stopped", "free", Hooked(self.share(), stop), epochs=3, checkpoint_every=None)
        except Interrupted as error:
            assert "SIGTERM after update 16, epoch 2 of 3" in str(error), error
        else:
            raise AssertionError("was not stopped")
        whole = checkpoint.load_latest(self.out / "ours-whole" / "checkpoints")
        self.assert_same(self.train("stopped", "free", self.share(), epochs=3, checkpoint_every=None), whole)

    def full_disk(self) -> None:
        """A disk that is full for one process only is an error in both, and the old checkpoint stays."""
        write = Folder.write_new

        def full(folder: Folder, name: str, content: bytes) -> None:
            if "process-1" in name and (self.out / "full/metrics.jsonl").exists():
                raise OSError(errno.ENOSPC, "No space left on device")
            write(folder, name, content)

        Folder.write_new = full
        try:
            self.train("full", "pgd", self.share(), epochs=1)
        except DiskError as error:
            assert "No space left" in str(error), error
        else:
            raise AssertionError("noticed nothing")
        finally:
            Folder.write_new = write
        found = checkpoint.load_latest(self.out / "full" / "checkpoints")
        assert found is not None and found.state["update"] == 0


class Dies(torch.utils.data.DataLoader):
    """One of Accelerate's loaders that calls a hook before each batch."""

    def __init__(self, inner: Any, hook: Callable[[int, int], None]) -> None:
        self.hooked = Hooked(inner, hook)
        self._is_accelerate_prepared = True
        self.num_workers, self.batch_sampler, self.sampler, self.generator = 0, None, None, None

    def __len__(self) -> int:
        return len(self.hooked)

    def set_epoch(self, epoch: int) -> None:
        self.hooked.set_epoch(epoch)

    def __iter__(self) -> Any:
        return iter(self.hooked)


def main() -> None:
    import small  # Beside this program; pytest, which looks for doctests here too, would not find it.

    torch.set_num_threads(1)
    run = Run(small, Path(sys.argv[1]), make_accelerator())
    assert run.accelerator.num_processes == 2
    run.plain()
    run.killed()
    run.pretraining()
    run.stopped()
    run.full_disk()
    run.accelerator.wait_for_everyone()  # a process that leaves early takes its peer's connection with it
    run.accelerator.end_training()
    sys.stdout.flush()
    os._exit(0)  # all is checked and the group is left; at the interpreter's end torch's threads abort now and then


if __name__ == "__main__":
    main()
