"""Add a regularizer
=================

A regularizer of your own, in training with any method::

    python examples/new_regularizer.py

A subclass of `Regularizer` is a module: what it learns are its parameters, which `parameter_groups` hands to the
optimizer, and `forward` is its term on the embeddings of the images trained on. A method of your own is a subclass of
`OneStep` in the same way: `examples` makes the images of a step, `loss` says what the weights minimise.
"""

import torch
from torch import Tensor, nn

import protoat as pa


class CenterLoss(pa.Regularizer):
    """Half the squared distance of embeddings to the learned center of their class (Wen et al., ECCV 2016, Eq. 2)."""

    def __init__(self, num_classes: int, embedding_dim: int) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.randn(num_classes, embedding_dim))

    def forward(self, embedding: Tensor, y: Tensor) -> Tensor:
        return 0.5 * (embedding - self.centers[y]).square().sum(1).mean()


if __name__ == "__main__":
    torch.manual_seed(0)
    threat = pa.Linf(0.1)
    train, test = pa.Digits().load("train"), pa.Digits().load("test")
    model = pa.LeNet(num_classes=10, in_channels=1, image_size=8)
    regularizer = CenterLoss(10, model.embedding_dim)
    objective = pa.Objective(pa.FastAT(threat), regularizer, weight=0.01)
    optimizer = torch.optim.Adam(pa.parameter_groups(model, objective, lr=0.002))
    pa.fit(model, pa.ImageLoader(train, batch_size=128), objective, epochs=8, optimizer=optimizer)

    report = pa.evaluate(model, test, ["clean", "pgd20"], threat=threat)
    print(report)
