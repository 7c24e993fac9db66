"""Two processes under ``accelerate launch`` end as one that averages gradients by hand."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from protoat.attacks import PGD


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of the runs of `two_ranks.py`, whose own checks have passed."""
    out = tmp_path_factory.mktemp("ranks")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
            *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"),
            *(str(Path(__file__).with_name("two_ranks.py")), str(out)),
        ],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def by_hand(small: ModuleType) -> tuple[dict[str, Tensor], list[float], torch.nn.Module]:
    """Two replicas in one process: own batches, own batch norm within an epoch, averaged gradients."""
    replicas = []
    for rank in range(2):
        torch.manual_seed(100)  # The first process's weights are everybody's.
        net, goal = small.Net(dropout=0.0), small.objective("fgsm")
        optimizer = torch.optim.SGD(small.parameter_groups(net, goal, lr=0.1), momentum=0.9)
        replicas.append((net, goal, optimizer, small.loader(rank=rank, world_size=2, batch_size=20)))
    means = []
    for epoch in range(2):
        base = []
        for _, _, _, loader in replicas:
            loader.set_epoch(epoch)
        for batches in zip(*(loader for _, _, _, loader in replicas), strict=True):
            terms = [next(goal.losses(net, *batch)) for (net, goal, _, _), batch in zip(replicas, batches, strict=True)]
            base += [float(term.base.detach()) for term in terms]
            for (_, _, optimizer, _), term in zip(replicas, terms, strict=True):
                optimizer.zero_grad()
                term.total.backward()
            learned = [[*net.parameters(), *goal.parameters()] for net, goal, _, _ in replicas]
            for pair in zip(*learned, strict=True):
                mean = (pair[0].grad + pair[1].grad) / 2
                for parameter in pair:
                    parameter.grad = mean.clone()
            for _, _, optimizer, _ in replicas:
                optimizer.step()
        means.append(sum(base) / len(base))
        for name in ("running_mean", "running_var"):
            statistics = [getattr(net.features[1], name) for net, _, _, _ in replicas]
            mean = (statistics[0] + statistics[1]) / 2
            for statistic in statistics:
                statistic.copy_(mean)
        mass = (replicas[0][1].regularizer.mass + replicas[1][1].regularizer.mass) / 2
        for _, goal, optimizer, _ in replicas:
            goal.regularizer.mass.copy_(mass)
            goal.regularizer.end_epoch(epoch + 1, 2, optimizer)
    net, goal, _, _ = replicas[0]
    learned = net.state_dict() | goal.state_dict()
    del learned["regularizer.mass"]
    return learned, means, net


@pytest.mark.slow
def test_equals_averaging_by_hand(launched: Path, small: ModuleType) -> None:
    ranks = [load_file(launched / f"plain-{rank}.safetensors") for rank in range(2)]
    for state in ranks:
        del state["regularizer.mass"]  # Each process counts its own.
    assert ranks[0].keys() == ranks[1].keys()
    for key, value in ranks[0].items():
        assert torch.equal(value, ranks[1][key]), f"{key} differs between the processes"
    expected, means, net = by_hand(small)
    for key, value in expected.items():
        torch.testing.assert_close(ranks[0][key], value, rtol=1e-4, atol=1e-6, msg=lambda m, key=key: f"{key}: {m}")
    assert ranks[0]["base"].tolist() == pytest.approx(means, rel=1e-5)

    data = small.digits(200, 800)
    x = data.images.float() / 255
    clean = (net.eval()(x).logits.argmax(1) == data.labels).double().mean()
    assert ranks[0]["measured"][:2].tolist() == pytest.approx([600, float(clean)])
    robust = PGD(small.THREAT, steps=10)(net, x, data.labels).correct.double().mean()
    assert float(ranks[0]["measured"][2]) == pytest.approx(float(robust), abs=0.02)


@pytest.mark.slow
def test_cannot_be_resumed_by_another_number_of_processes(launched: Path, small: ModuleType) -> None:
    with pytest.raises(ValueError, match="processes 2 there, 1 here"):
        small.train("free", launched / "ours-whole", train=small.loader(batch_size=20), epochs=3)
