from __future__ import annotations

import numpy as np
import torch
from sklearn.datasets import load_digits

from protoat.data import Digits


def test_digits_are_scikit_learns_and_splits_do_not_overlap() -> None:
    train, test = Digits().load("train"), Digits().load("test")
    pixels, labels = load_digits(return_X_y=True)
    assert (len(train), len(test)) == (1297, 500)
    assert torch.equal(torch.cat([train.labels, test.labels]), torch.from_numpy(labels))
    levels = torch.cat([train.images, test.images]).view(1797, 64).numpy()
    assert np.array_equal(np.rint(levels / 255 * 16), pixels)
    assert levels.max() == 255 and train.class_names == tuple("0123456789")
