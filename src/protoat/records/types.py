"""The typed classes of each kind of record."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypedDict, TypeVar

_T = TypeVar("_T")
MayLack = Annotated[_T, "the key may be missing"]


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


class Attacked(_Entry):
    """What one attack leaves right: a character of `outcomes` for each image."""

    parameters: Parameters
    alarms: MayLack[list[str]]


class WorstParameters(TypedDict):
    """What a worst case is over."""

    attacks: list[str]


class Worst(_Entry):
    """What no attack has broken."""

    parameters: WorstParameters


class Subject(TypedDict):
    """Whose weights, on which images, at which radius."""

    weights: str
    sha256: MayLack[str | None]
    data_sha256: MayLack[str]
    threat: MayLack[Threat]
    model: MayLack[str]
    head: MayLack[str]
    branch: MayLack[str | None]
    mean: MayLack[list[float] | None]
    std: MayLack[list[float] | None]


class Measured(Subject):
    """What an evaluation or a probe measured: the name of the images, and how many there were."""

    data: str
    images: int


class Finding(TypedDict):
    """What the lint says."""

    code: str
    severity: str
    text: str


class Evaluation(TypedDict):
    """``evaluation.json``"""

    subject: Measured
    attacks: dict[str, Attacked]
    worst_case: MayLack[Worst | None]
    test_images: MayLack[int]
    lint: MayLack[list[Finding]]


class Check(TypedDict):
    """What one check of an audit found."""

    id: str
    title: str
    status: Literal["pass", "fail", "incomplete", "not run"]
    figures: dict[str, Any]
    reason: str


class Audit(TypedDict):
    """``audit.json``"""

    subject: Subject
    threat: Threat
    images: int
    checks: list[Check]
    passed: MayLack[bool]
    test_images: MayLack[int]


class Heads(TypedDict):
    """Accuracies of the two linear heads, by attack."""

    standard: dict[str, Attacked]
    robust: dict[str, Attacked]


class Encoders(TypedDict):
    """The trained encoder, and the same one with its first weights."""

    trained: Heads
    random: MayLack[Heads]


class Probe(TypedDict):
    """``probe.json``"""

    subject: Measured
    encoders: Encoders
    heads: MayLack[dict[str, Any]]


class WorstMode(Counts):
    """The mode with the fewest right images on held-out ones, under attack if there is one."""

    mode: str


class Validated(TypedDict):
    """What held-out images say after an epoch."""

    images: int
    clean: float
    robust: MayLack[float]
    worst_mode: MayLack[WorstMode]


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


class Epoch(TypedDict):
    """A line of ``metrics.jsonl``"""

    epoch: int
    seconds: float
    total: float
    lr: float
    validation: MayLack[Validated]
    objective: MayLack[Learned]
    stopped: MayLack[str]


class Chosen(TypedDict, total=False):
    """A class with its arguments, in a recipe."""

    class_path: str
    init_args: dict[str, Any]


class ChosenData(TypedDict):
    """A data source with its arguments, in a recipe."""

    class_path: str
    init_args: MayLack[dict[str, Any]]


class RecipeThreat(TypedDict, total=False):
    """A threat model as a recipe has it, where the radius may be a text such as 8/255."""

    norm: str
    eps: str | float


class Start(TypedDict, total=False):
    """Where a recipe takes weights from."""

    run: str | None
    weights: str | None


class RecipeFile(TypedDict):
    """``recipe.yaml``, as far as it is read without building what it says"""

    data: ChosenData
    method: MayLack[Chosen | str]
    model: MayLack[Chosen | str]
    regularizer: MayLack[Chosen | str | None]
    threat: MayLack[RecipeThreat]
    evaluation_threat: MayLack[RecipeThreat | None]
    groups: MayLack[int | str | dict[str, Any] | None]
    epochs: MayLack[int]
    seed: MayLack[int]
    initialise: MayLack[Start | None]


class JobFile(TypedDict):
    """``job.json``, as far as it is read"""

    start: str | None


class Kept(TypedDict):
    """A file of ``evaluation.partial``"""

    outcomes: str
    seconds: float
    alarms: MayLack[list[str]]
