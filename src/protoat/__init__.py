"""Multi-prototype adversarial training, and an honest measurement of how robust its models are.

Everything a program needs is here: ``protoat.PGD``, ``protoat.PGDAT``, ``protoat.SoftTriple``. Names load on first use,
so that ``import protoat`` and ``protoat --help`` do not import torch; ``__init__.pyi`` tells type checkers of them.

>>> import torch
>>> import protoat as pa
>>> from torch.utils.data import DataLoader, TensorDataset
>>> x, y = torch.rand(40, 1, 8, 8), torch.arange(40) % 10
>>> model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
>>> pa.PGD(pa.Linf(8 / 255), steps=10)(model, x, y).x_adv.shape
torch.Size([40, 1, 8, 8])
>>> loader = DataLoader(TensorDataset(x, y), batch_size=20)
>>> report = pa.evaluate(model, loader, ["clean", "pgd10"], threat=pa.Linf(0.3))
>>> report.worst_case.accuracy == report["pgd10"].accuracy <= report["clean"].accuracy
True
"""

from importlib import import_module
from typing import Any

from protoat._version import __version__ as __version__

_PACKAGES = (
    "attacks",
    "data",
    "evaluation",
    "functional",
    "methods",
    "models",
    "modes",
    "plots",
    "pretraining",
    "regularizers",
    "training",
    "weighting",
)
# The module that each name comes from.
_EXPORTS = {
    "attacks": """
        APGD APGDT BIM CWPGD FAB FABT FFGSM FGSM JSMA MALT MIM PGD PMA RFGSM SPSA TPGD ApproachWrong Attack AttackLoss
        AttackResult AutoAttack BatchNormMode CarliniWagnerL0 CarliniWagnerL2 CarliniWagnerLinf Closest CornerNoise
        DeepFool EmbeddingDisplacement FastEnsemble Finding LeaveMode LeaveOwn MeasurementWarning MinimalNormAttack
        Problem PrototypeClassifier Square TargetRule Targeted Transfer UniformNoise WithSoftTriple adaptive_attacks
        adaptive_head_attacks draw_targets
    """,
    "data": """
        CIFAR10 CIFAR100 CIFAR100_SUPERCLASSES MNIST Augment DataNotFoundError Digits FashionMNIST Groups HFDataset
        ImageData ImageFolder ImageLoader Inventory Origin Preprocess RandomView Source Split TinyImageNet cache_folder
        long_tailed regroup split_validation
    """,
    "errors": "UserError",
    "estimator": "RobustClassifier",
    "evaluation": """
        AttackReport AuditReport Comparison Comparisons Count Paired Prediction Predictions Report Surrogate
        attack_of_name audit evaluate fair_order lint predict compare
    """,
    "methods": """
        ATTA AWP CFA DAJAT FGSMAT FGSMPGI MART NFGSM PGDAT TRADES AdversarialTraining BiaMAT Distillation Examples
        FastAT FreeAT Method NuAT OneStep Standard
    """,
    "models": """
        DualBatchNorm FrozenBatchNorm ImageClassifier LeNet MeanLogits MultiPrototypeHead Normalize ResNet18 ResNet50
        SecondBatchNorm TimmModel TorchvisionModel WithEmbedding batch_norm_branch classifier_head dual_batch_norm
        freeze_all_but keep_branch multi_prototype_head with_embedding with_head
    """,
    "modes": "DiscoveredModes KnownModes Modes",
    "objective": "Objective",
    "pretraining": "ACL Contrastive RoCL",
    "regularizers": "TLA NPair ProxyAnchor ProxyNCA Regularizer SoftTriple Triplet",
    "runs.run": "Run",
    "sharing": "Agreement Exported export",
    "threats": "L1 L2 Linf ThreatModel",
    "training": """
        EMA FAWA LARS SWA Averaging CheckpointError Constant Cyclic DiskError FitResult Interrupted NonFiniteLossError
        Schedule StepDecay TorchSchedule WarmupCosine fit load_weights make_accelerator parameter_groups
    """,
    "types": "Forwards Output",
    "weighting": "CFOL GroupDRO Weighting",
}
_HOMES = {name: f"protoat.{home}" for home, names in _EXPORTS.items() for name in names.split()}

__all__ = sorted(["__version__", *_PACKAGES, *_HOMES])  # noqa: PLE0605 - a list, as it should be


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"protoat.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'protoat' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
