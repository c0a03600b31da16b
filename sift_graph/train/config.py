"""What a training run does: frozen dataclasses. ``config_file`` reads them from TOML and writes them back."""

from __future__ import annotations

from dataclasses import dataclass, field

from sift_graph.ift.options import Options
from sift_graph.sparsify.options import MethodOptions

__all__ = [
    "CheckpointConfig",
    "Config",
    "DataConfig",
    "MaskConfig",
    "ModelConfig",
    "OptimizerConfig",
    "RecordConfig",
    "StartConfig",
    "TrainingConfig",
]


@dataclass(frozen=True)
class ModelConfig:
    """The dense model.

    Attributes
    ----------
    name : str
        A key of ``sift_graph.train.MODELS``.
    width : int
        Of the dense model: channels of the first stage of a convolutional network, of the stream of a transformer,
        units of a hidden layer of an mlp; 0 for the model's own default.
    depths : tuple of int
        Blocks in each stage, hidden layers of an mlp; empty for the model's own default.
    heads : int
        Of attention; 0 for the model's own default. Widths are rounded up to a multiple of them.
    dropout : float
        Share of activations dropped while training, in [0, 1).
    """

    name: str = "resnet"
    width: int = 0
    depths: tuple[int, ...] = ()
    heads: int = 0
    dropout: float = 0.0


@dataclass(frozen=True)
class DataConfig:
    """The data. An option that means nothing to the data set is refused.

    Attributes
    ----------
    name : str
        A key of ``sift_graph.train.DATASETS``.
    path : str
        Folder or file where the data lies; ``data`` in the working directory if empty.
    train_samples, validation_samples : int
        Images, or stretches of a text, to train and to validate on; 0 for the data set's own number.
    noise : float
        Standard deviation of Gaussian noise added once to all images, in units of theirs.
    seed : int
        Of the split, the noise and what is drawn; -1 for the seed of the run.
    classes : int
        Of shapes, the first so many; of a folder, as many as it must have. 0 for all.
    image_size : int
        Height and width of the images of a folder; 0 for 224.
    augment : tuple of str
        Any of ``crop``, ``flip``, ``cutout``, applied to training images.
    crop_padding, cutout_size : int
        Pixels.
    tokenizer : str
        ``bytes`` or ``bpe``.
    vocabulary : int
        Tokens of a bpe tokenizer; 0 for 4096.
    sequence_length : int
        Tokens of a stretch; 0 for 128.
    workers : int
        Threads that read images.
    """

    name: str = "digits"
    path: str = ""
    train_samples: int = 0
    validation_samples: int = 0
    noise: float = 0.0
    seed: int = 0
    classes: int = 0
    image_size: int = 0
    augment: tuple[str, ...] = ()
    crop_padding: int = 4
    cutout_size: int = 8
    tokenizer: str = "bytes"
    vocabulary: int = 0
    sequence_length: int = 0
    workers: int = 4


@dataclass(frozen=True)
class MaskConfig:
    """How masks are laid out and when they move.

    Attributes
    ----------
    distribution : str
        A key of ``sift_graph.sparsify.DISTRIBUTIONS``.
    init : str
        How the first masks are laid out: ``exact``, ``bernoulli``, ``constant_fan_in``, ``magnitude``, ``snip``,
        ``grasp``, ``synflow``, or a construction (``community``, ``hubs``, ...; page "methods" of the docs); ``own``
        for the way of the method or the distribution.
    compensate : bool
        Choose densities so that the whole model costs what the dense one does. False is ``ift.compensate = "no"``.
    every : int
        Optimizer updates between two mask updates. The papers' 100 is for trainings of ten thousands of updates.
    begin : int
        Masks move after this update.
    stop : float
        Fraction of all updates after which masks rest.
    drop_fraction : float
        The first fraction of weights to drop; it falls to 0 as a cosine.
    """

    distribution: str = "uniform"
    init: str = "own"
    compensate: bool = True
    every: int = 20
    begin: int = 0
    stop: float = 0.75
    drop_fraction: float = 0.3


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimizer and its learning rate.

    Attributes
    ----------
    name : str
        ``sgd`` or ``adamw``.
    lr : float
    momentum, nesterov : float, bool
        Of SGD.
    betas, eps : tuple of float, float
        Of AdamW.
    weight_decay : float
    decay_all : bool
        Whether norms and biases decay too; otherwise they are spared.
    clip : float
        Largest norm of the gradient of all weights that are kept; 0 for no clipping.
    schedule : str
        ``cosine``, ``linear``, ``step`` or ``constant``.
    final : float
        Where the cosine and the linear schedule end, as a fraction of `lr`.
    milestones : tuple of float
        Of the step schedule: fractions of the training at which the rate is multiplied by `gamma`.
    gamma : float
    per_epoch : bool
        Whether the rate changes between epochs only.
    warmup_epochs : float
        Linear warm-up, before any schedule.
    """

    name: str = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    betas: tuple[float, ...] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 5e-4
    decay_all: bool = False
    clip: float = 0.0
    schedule: str = "cosine"
    final: float = 0.0
    milestones: tuple[float, ...] = (0.3, 0.6, 0.8)
    gamma: float = 0.2
    per_epoch: bool = False
    warmup_epochs: float = 0.0


@dataclass(frozen=True)
class TrainingConfig:
    """The loop.

    Attributes
    ----------
    epochs : int
    batch_size : int
        Examples of one optimizer update, over all processes.
    accumulate : int
        Parts in which a process takes its examples, one after the other, to need less memory.
    label_smoothing : float
        In [0, 1).
    precision : str
        ``fp32``, or ``bf16`` or ``fp16`` for automatic mixed precision. With ``fp16`` the loss is scaled, and a batch
        whose gradients overflow is taken again at a smaller scale: no update is left out.
    device : str
        As PyTorch names it. Runs are reproduced bit for bit on ``cpu``.
    threads : int
        PyTorch's threads during the run.
    """

    epochs: int = 30
    batch_size: int = 50
    accumulate: int = 1
    label_smoothing: float = 0.0
    precision: str = "fp32"
    device: str = "cpu"
    threads: int = 1


@dataclass(frozen=True)
class RecordConfig:
    """What is recorded at step 0, at each mask update, and at the end.

    Attributes
    ----------
    weights : str
        ``none``, ``fp16`` or ``fp32``.
    """

    weights: str = "fp16"


@dataclass(frozen=True)
class CheckpointConfig:
    """When the state is saved, for ``resume``.

    Attributes
    ----------
    seconds : float
        Time between two checkpoints; they are written at the ends of epochs. 0 for each epoch.
    """

    seconds: float = 10.0


@dataclass(frozen=True)
class StartConfig:
    """What a run begins with, if not with weights drawn from the seed.

    Attributes
    ----------
    checkpoint : str
        A run directory of this trainer, or its ``checkpoint.pt``; empty to begin from the seed. The optimizer and the
        schedules begin anew.
    masks : str
        ``keep`` the checkpoint's masks, from which the method goes on; ``dense`` to let all weights back in; ``draw``
        new masks on its weights.
    fresh : tuple of str
        Globs of parameters that do begin from the seed: ``["head.*"]`` for other classes.
    """

    checkpoint: str = ""
    masks: str = "keep"
    fresh: tuple[str, ...] = ()


@dataclass(frozen=True)
class Config:
    """A training run.

    Attributes
    ----------
    family : str
        A key of ``sift_graph.ift.FAMILIES``.
    sparsity : float
        Nominal fraction of zeros, in [0, 1); 0 for the dense family.
    method : str
        A key of ``sift_graph.sparsify.METHODS``; not used by the dense family.
    seed : int
        Of initial weights, masks, batches and random growth.
    ift : Options
        How the family transforms the model: :class:`sift_graph.ift.Options`.
    options : MethodOptions
        Of the method: :class:`sift_graph.sparsify.MethodOptions`.
    model, data, masks, optimizer, training, record, checkpoint, start
        Tables of their own.
    """

    family: str = "dense"
    sparsity: float = 0.0
    method: str = "static"
    seed: int = 0
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    ift: Options = field(default_factory=Options)
    masks: MaskConfig = field(default_factory=MaskConfig)
    options: MethodOptions = field(default_factory=MethodOptions)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    record: RecordConfig = field(default_factory=RecordConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    start: StartConfig = field(default_factory=StartConfig)
