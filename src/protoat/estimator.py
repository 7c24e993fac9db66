"""A scikit-learn classifier that is trained against adversarial examples."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils import check_random_state
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, validate_data
from torch import Tensor, nn

from protoat.arguments import check_epochs, check_kind, check_number, check_whole
from protoat.data import ImageData, ImageLoader
from protoat.data.arrays import shape_of_images, unit_images
from protoat.data.given import Given
from protoat.errors import UserError
from protoat.evaluation import Report, evaluate
from protoat.evaluation.attack_names import Attacks
from protoat.functional.forward import device_of, output_of
from protoat.methods import PGDAT, Method
from protoat.models import LeNet, MultiPrototypeHead, with_embedding
from protoat.models.head import classifier_head, head_sizes, with_head
from protoat.modes import DiscoveredModes, KnownModes, Modes
from protoat.objective import Objective
from protoat.regularizers import Regularizer
from protoat.runs.network import call_builder
from protoat.threats import Linf, ThreatModel
from protoat.training import Cyclic, Schedule, fit, parameter_groups

_HIDDEN = 64
_SMALLEST = 8  # pixels that LeNet takes
_MODES: dict[str, Callable[[ImageData], Modes]] = {"known": KnownModes, "discovered": DiscoveredModes}


class RobustClassifier(ClassifierMixin, BaseEstimator):
    """Adversarial training as a scikit-learn estimator: for `Pipeline`, `cross_val_score`, `GridSearchCV`.

    It is `protoat.fit` with SGD (momentum 0.9) behind scikit-learn's interface; training that needs more control, or
    has to survive a kill, is `protoat.fit` or `protoat train`.

    X is (N, H, W) or (N, C, H, W), or (N, features): with `image_shape` rows of pixels, without it a table, of which
    each row is an image of one pixel with many channels, as far as norms, attacks and networks can tell.

    Args:
        network: an ``nn.Module``, which is copied; or a function or class that builds one, and is told num_classes,
            in_channels and image_size as far as it has arguments of these names. Default: `LeNet` for square images of
            8 pixels or more, else a perceptron with a hidden layer of 64 behind batch norm.
        threat: norm and radius, of pixels in [0, 1]; default ``Linf("8/255")``.
        modes: ``"known"``, those that `fit` is told; ``"discovered"``; or a function of `ImageData`, such as
            ``partial(protoat.DiscoveredModes, clusters=4)``. The network then gets a head with a prototype for each.
            Default: known modes if `fit` is told some, else none.
        method: from the threat model to a method, such as ``protoat.TRADES``; default `PGDAT` with 7 steps.
        regularizer: from (num_classes, embedding_dim) to one, such as ``protoat.SoftTriple`` with its other arguments.
        epochs: passes over the data.
        batch_size: images of a step.
        lr: learning rate.
        schedule: of the learning rate; default `Cyclic`, up to `lr` and down to 0.
        weight_decay: of the network.
        image_shape: (C, H, W) of the images that the rows of a two-dimensional X hold; another X must agree with it.
        pixel_range: what black and white are in X, such as (0, 16); `threat` is in units of the range. Default: X in
            [0, 1], or from 0 to 255 where it is 8-bit.
        random_state: seed, generator or None, as everywhere in scikit-learn.
        verbose: show a progress bar.

    Attributes:
        classes_: labels, in the order of the columns of `predict_proba`.
        model_: the trained network, in eval mode.
        image_shape_: (C, H, W).
        n_features_in_: second dimension of X, as scikit-learn counts.
        result_: a `FitResult`.

    Raises:
        ValueError: from `fit` and others, as scikit-learn does, not at construction: arguments out of range, X of
            another shape or outside the range, one class only.

    >>> from sklearn.datasets import load_digits
    >>> X, y = load_digits(return_X_y=True)
    >>> classifier = RobustClassifier(threat=Linf(0.1), image_shape=(1, 8, 8), pixel_range=(0, 16), epochs=2)
    >>> classifier.fit(X[:300], y[:300]).predict(X[300:305]).shape
    (5,)
    >>> 0 <= classifier.robust_score(X[300:340], y[300:340]) <= classifier.score(X[300:340], y[300:340]) <= 1
    True
    """

    def __init__(
        self,
        network: nn.Module | Callable[..., nn.Module] | None = None,
        *,
        threat: ThreatModel | None = None,
        modes: str | Callable[[ImageData], Modes] | None = None,
        method: Callable[[ThreatModel], Method] | None = None,
        regularizer: Callable[[int, int], Regularizer] | None = None,
        epochs: int = 20,
        batch_size: int = 64,
        lr: float = 0.05,
        schedule: Schedule | None = None,
        weight_decay: float = 5e-4,
        image_shape: tuple[int, int, int] | None = None,
        pixel_range: tuple[float, float] | None = None,
        random_state: Any = None,
        verbose: bool = False,
    ) -> None:
        self.network = network
        self.threat = threat
        self.modes = modes
        self.method = method
        self.regularizer = regularizer
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.schedule = schedule
        self.weight_decay = weight_decay
        self.image_shape = image_shape
        self.pixel_range = pixel_range
        self.random_state = random_state
        self.verbose = verbose

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.non_deterministic = False
        return tags

    def fit(self, X: Any, y: Any, modes: Any = None) -> RobustClassifier:
        """Trains on images and labels.

        Args:
            X: see the class.
            y: (N,) labels, of any kind that scikit-learn takes.
            modes: the mode of each image, N numbers or names, None where it is unknown.
        """
        X, y = validate_data(self, X, y, allow_nd=True)
        check_classification_targets(y)
        self.classes_, labels = np.unique(y, return_inverse=True)
        if len(self.classes_) < 2:
            raise UserError("y has one class, expected two classes or more")
        check_epochs(self.epochs)
        check_whole(batch_size=self.batch_size)
        check_number("(0, inf)", lr=self.lr)
        self.image_shape_ = shape_of_images(X.shape, self.image_shape)
        data = self._data(X, labels, modes)
        seed = int(check_random_state(self.random_state).randint(2**31 - 1))
        with _seeded(seed):
            model, objective = self._parts(data, told=modes is not None)
        groups = parameter_groups(model, objective, lr=self.lr, weight_decay=self.weight_decay)
        loader = ImageLoader(
            data,
            batch_size=self.batch_size,
            drop_last=len(data) % self.batch_size == 1 < len(data),  # batch norm cannot train on a single image
            seed=seed,
            origins=objective.per_image,
        )
        self.result_ = fit(
            model,
            loader,
            objective,
            epochs=self.epochs,
            optimizer=torch.optim.SGD(groups, lr=self.lr, momentum=0.9),
            schedule=self.schedule or Cyclic(lr_min=0.0),
            seed=seed,
            progress=bool(self.verbose),
        )
        self.model_ = model.eval()
        return self

    def predict_proba(self, X: Any) -> np.ndarray:
        """(N, C) softmax over the logits, not calibrated.

        Raises:
            ValueError: logits that are not finite.
        """
        check_is_fitted(self, "model_")
        X = validate_data(self, X, allow_nd=True, reset=False)
        device = device_of(self.model_)
        with torch.no_grad():
            found = [output_of(self.model_, x.to(device)).logits.double().cpu() for x in self._pixels(X).split(256)]
        logits = torch.cat(found)
        if not bool(logits.isfinite().all()):
            raise UserError("the model's logits are not finite (NaN or infinite), so no class is its prediction")
        return logits.softmax(1).numpy()

    def predict(self, X: Any) -> np.ndarray:
        """(N,) labels; see `predict_proba`."""
        check_is_fitted(self, "model_")
        return self.classes_[self.predict_proba(X).argmax(1)]

    def robust_report(self, X: Any, y: Any, attacks: Attacks = ("pgd20",), *, modes: Any = None) -> Report:
        """Accuracy under attacks, per class and mode; see `protoat.evaluate`.

        Args:
            X, y: see `fit`.
            attacks: names such as ``"aa"`` (AutoAttack), or attacks.
            modes: the mode of each image.
        """
        check_is_fitted(self, "model_")
        X, y = validate_data(self, X, y, allow_nd=True, reset=False)
        if strange := sorted(set(np.unique(y).tolist()) - set(self.classes_.tolist()), key=str):
            raise UserError(f"y has the label {strange[0]!r}, which was not there in fit")
        data = self._data(X, np.searchsorted(self.classes_, y), modes)
        return evaluate(self.model_, data, attacks, threat=self._threat)

    def robust_score(self, X: Any, y: Any, attacks: Attacks = ("pgd20",)) -> float:
        """Share of images that stay right under every attack; the default is quick, and ``"aa"`` fit to be reported.

        Args:
            X, y, attacks: see `robust_report`.
        """
        return self.robust_report(X, y, attacks).worst_case.accuracy

    @property
    def _threat(self) -> ThreatModel:
        threat = Linf("8/255") if self.threat is None else self.threat
        check_kind(ThreatModel, threat=threat)
        return threat

    def _pixels(self, X: np.ndarray) -> Tensor:
        """(N, C, H, W) float32 in [0, 1]."""
        if (shape := shape_of_images(X.shape, self.image_shape)) != self.image_shape_:
            raise UserError(f"X has images of shape {shape}, and was fitted on {self.image_shape_}")
        return unit_images(X, shape, self.pixel_range)

    def _data(self, X: np.ndarray, labels: np.ndarray, modes: Any) -> ImageData:
        names = tuple(map(str, self.classes_.tolist()))
        given = Given(self._pixels(X), torch.from_numpy(labels.astype(np.int64)), modes, names)
        return given.named(len(self.classes_))

    def _parts(self, data: ImageData, *, told: bool) -> tuple[nn.Module, Objective]:
        """The network before training, and what it is trained by."""
        threat = self._threat
        method = PGDAT(threat) if self.method is None else self.method(threat)
        choice = self.modes if self.modes is not None else "known" if told else None
        if isinstance(choice, str) and choice not in _MODES:
            raise UserError(f"modes={choice!r} is unknown; write 'known', 'discovered', or a function of ImageData")
        modes = None if choice is None else (_MODES[choice] if isinstance(choice, str) else choice)(data)
        if isinstance(modes, DiscoveredModes) and modes.warmup_epochs >= self.epochs and not bool(modes.fixed):
            raise UserError(
                f"epochs={self.epochs} ends before modes are discovered (warmup_epochs={modes.warmup_epochs}); write "
                f"epochs={modes.warmup_epochs + 1} or more"
            )
        model = self._network(data)
        if modes is not None and modes.prototypes_per_class is not None:
            sizes = head_sizes(classifier_head(model))
            model = with_head(model, MultiPrototypeHead(*sizes, prototypes_per_class=modes.prototypes_per_class))
        if modes is None and self.regularizer is None:
            return model, Objective(method)
        embedding_dim = _embedding_dim(model, data)
        if not embedding_dim:
            model = with_embedding(model)
            embedding_dim = _embedding_dim(model, data)
        regularizer = None if self.regularizer is None else self.regularizer(data.num_classes, embedding_dim)
        return model, Objective(method, regularizer, modes=modes)

    def _network(self, data: ImageData) -> nn.Module:
        channels, height, width = data.shape
        if isinstance(self.network, nn.Module):
            return copy.deepcopy(self.network)
        if self.network is None:
            return _default_network(data.num_classes, data.shape)
        if height != width:
            raise UserError(f"images are {height}x{width}, and a builder is told one size; pass the network itself")
        network = call_builder("network", self.network, data.num_classes, channels, height)
        check_kind(nn.Module, network=network)
        return network


def _default_network(num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    channels, height, width = shape
    if height == width >= _SMALLEST:
        return LeNet(num_classes, channels, height)
    features = channels * height * width
    layers = (nn.BatchNorm1d(features), nn.Linear(features, _HIDDEN), nn.ReLU(), nn.Linear(_HIDDEN, num_classes))
    return nn.Sequential(nn.Flatten(), *layers)


@torch.no_grad()
def _embedding_dim(model: nn.Module, data: ImageData) -> int:
    return output_of(copy.deepcopy(model).eval(), data.pixels(slice(1))).embedding.shape[1]


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Random numbers of torch from a seed, and the caller's as before at the end."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
