"""The typed classes of each kind of record."""

from __future__ import annotations

from typing import Any, Literal, TypedDict


class Counts(TypedDict):
    """Images of a group, and how many of them are classified correctly."""

    correct: int
    total: int


class Threat(TypedDict):
    """What an adversary may do."""

    norm: str
    eps: float


class Parameters(TypedDict, total=False):
    """What defines an attack, as far as it is read again; ``of`` and ``parts`` are attacks within it."""

    attack: str | None
    norm: str
    eps: float | None
    steps: int
    step_size: float | None
    of: Parameters
    parts: dict[str, Parameters]


class _Entry(Counts):
    per_class: dict[str, Counts]
    per_mode: dict[str, Counts]
    seconds: float
    outcomes: str


class _Alarmed(TypedDict, total=False):
    alarms: list[str]


class Attacked(_Entry, _Alarmed):
    """What one attack leaves right: a character of `outcomes` for each image."""

    parameters: Parameters


class WorstParameters(TypedDict):
    """What a worst case is over."""

    attacks: list[str]


class Worst(_Entry):
    """What no attack has broken."""

    parameters: WorstParameters


class _Subject(TypedDict):
    weights: str


class Subject(_Subject, total=False):
    """Whose weights, on which images, at which radius."""

    sha256: str | None
    data_sha256: str
    threat: Threat
    model: str
    head: str
    branch: str | None
    mean: list[float] | None
    std: list[float] | None


class Measured(Subject):
    """What an evaluation or a probe measured: the name of the images, and how many there were."""

    data: str
    images: int


class Finding(TypedDict):
    """What the lint says."""

    code: str
    severity: str
    text: str


class _Evaluation(TypedDict):
    subject: Measured
    attacks: dict[str, Attacked]


class Evaluation(_Evaluation, total=False):
    """``evaluation.json``"""

    worst_case: Worst | None
    test_images: int
    lint: list[Finding]


class Check(TypedDict):
    """What one check of an audit found."""

    id: str
    title: str
    status: Literal["pass", "fail", "incomplete", "not run"]
    figures: dict[str, Any]
    reason: str


class _Audit(TypedDict):
    subject: Subject
    threat: Threat
    images: int
    checks: list[Check]


class Audit(_Audit, total=False):
    """``audit.json``"""

    passed: bool
    test_images: int


class Heads(TypedDict):
    """Accuracies of the two linear heads, by attack."""

    standard: dict[str, Attacked]
    robust: dict[str, Attacked]


class _Encoders(TypedDict):
    trained: Heads


class Encoders(_Encoders, total=False):
    """The trained encoder, and the same one with its first weights."""

    random: Heads


class _Probe(TypedDict):
    subject: Measured
    encoders: Encoders


class Probe(_Probe, total=False):
    """``probe.json``"""

    heads: dict[str, Any]


class WorstMode(Counts):
    """The mode with the fewest right images on held-out ones, under attack if there is one."""

    mode: str


class _HeldOut(TypedDict):
    images: int
    clean: float


class Validated(_HeldOut, total=False):
    """What held-out images say after an epoch."""

    robust: float
    worst_mode: WorstMode


class _At(TypedDict):
    epoch: int


class Best(_At, Validated):
    """``best.json``"""


class Session(TypedDict, total=False):
    """One start of a run."""

    command: list[str]
    protoat: str
    commit: str | None


class Facts(TypedDict, total=False):
    """``run.json``"""

    num_classes: int
    shape: list[int]
    class_names: list[str]
    mode_names: list[str]
    prototypes_per_class: list[int]
    prototype_modes: list[list[str]]
    train_images: int
    validation_images: int
    data_sha256: list[str]
    sessions: list[Session]


class Learned(TypedDict, total=False):
    """What an objective says of itself after an epoch."""

    prototype_counts: list[int]
    in_use: list[int]
    usage: list[list[float]]
    cluster_sizes: list[list[int]]
    mode_nmi: list[float | None]
    mode_purity: list[float | None]
    group_weights: list[float]


class _Epoch(TypedDict):
    epoch: int
    seconds: float
    total: float
    lr: float


class Epoch(_Epoch, total=False):
    """A line of ``metrics.jsonl``"""

    validation: Validated
    objective: Learned
    stopped: str


class Chosen(TypedDict, total=False):
    """A class with its arguments, in a recipe."""

    class_path: str
    init_args: dict[str, Any]


class _ChosenData(TypedDict):
    class_path: str


class ChosenData(_ChosenData, total=False):
    """A data source with its arguments, in a recipe."""

    init_args: dict[str, Any]


class RecipeThreat(TypedDict, total=False):
    """A threat model as a recipe has it, where the radius may be a text such as 8/255."""

    norm: str
    eps: str | float


class Start(TypedDict, total=False):
    """Where a recipe takes weights from."""

    run: str | None
    weights: str | None


class _RecipeFile(TypedDict):
    data: ChosenData


class RecipeFile(_RecipeFile, total=False):
    """``recipe.yaml``, as far as it is read without building what it says"""

    method: Chosen | str
    model: Chosen | str
    regularizer: Chosen | str | None
    threat: RecipeThreat
    evaluation_threat: RecipeThreat | None
    groups: int | str | dict[str, Any] | None
    epochs: int
    seed: int
    initialise: Start | None


class JobFile(TypedDict):
    """``job.json``, as far as it is read"""

    start: str | None


class Kept(_Alarmed):
    """A file of ``evaluation.partial``"""

    outcomes: str
    seconds: float
