"""What the configuration of a training run may hold: the type of every key that is not an argument of a `_target_`.
Those of the other tools stand in `visionkit.config_tools`.

The values themselves stand in `configs/` alone; here no key has a default. A part with a `_target_` is a plain mapping
whose keys are the arguments of its target (`visionkit.targets`); ranges stand in `visionkit.config_checks`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass
class ModelConfig:
    """backbone, neck: a `_target_` and its arguments (neck null: heads read the backbone); width: factor on channels
    of our own parts. loss_weights: factors by "head/loss" or by head; learn_loss_weights: learn one a head beside them.
    freeze: none, backbone, or the level up to which its stages are frozen; unfreeze: by level, or "all", the epochs
    after which its stage learns, the last stage first, as in {c5: 2, c4: 4, all: 6}. norm: what batch norms
    do in training: live, frozen (the backbone's, as in evaluation), sync (statistics of all GPUs' batches), or auto
    (sync where several GPUs have few images each, else live).
    """

    backbone: dict[str, Any]
    neck: dict[str, Any] | None
    width: float
    loss_weights: dict[str, float]
    learn_loss_weights: bool
    freeze: str
    unfreeze: dict[str, float]
    norm: str


@dataclass
class SplitsConfig:
    """Which of the source's own lists (null: none) plays each role; without val, `best` is `last`."""

    train: str | None
    val: str | None
    test: str | None


@dataclass
class DataConfig:
    """The data set.

    reader: the reader's `_target_` and arguments of its own; the keys root to annotations are handed to it when it
        takes them, and refused otherwise.
    root: folder of the data set.
    classes: names to use, in this order; null: all of the source.
    ignore_index: value of a mask's pixels without a label, in the source's files.
    seed: of generated scenes, and of splits by fraction.
    objects: number of objects in a generated scene, or [least, most]; null: many.
    box: largest or first, the object that localization means in images of several; null: such images are refused.
    on_error: stop at a broken file or label, or skip it and say so; max_skipped: the share of the images, and of the
        objects, that may be skipped.
    annotations: split -> annotation file, where it is not where the format puts it.
    splits: the source's list of each role; split: the one that evaluate and check_data take, a role or a list.
    sets, proportions: of data=[a,b], each set's own reader, splits and keys, and the share of training images that is
        drawn from it (by default its own size).
    repeat_factor: share of the images (LVIS: 0.001); those with a class that fewer images show are drawn more often;
        null: all alike.
    channels: of the decoded images: 3 (RGB), 1 (grey), or as many as the files hold. bit_depth: 8, 16 or float; what
        becomes of files of another depth is told in `visionkit.data.decode`.
    batch_size: images a step and device, or auto: the most that fit into memory (`visionkit.engine.batch_finder`).
    workers: loading processes, or auto.
    cache: where decoded training images are kept: ram, disk (the cache folder) or none, where each process keeps the
        128 MiB that it met last for mosaics and other mixes. cache_gib: the most that it takes; null: 4 in memory, 64
        on the disk.
    reduced_decoding: auto: in training, JPEGs at least three times as large as they are used are decoded at 1/2, 1/4 or
        1/8 of their size; false: never. Evaluation always decodes at full size.
    """

    reader: dict[str, Any]
    root: str | None
    classes: list[str] | None
    ignore_index: int | None
    seed: int
    objects: Any
    box: str | None
    on_error: str
    max_skipped: float
    annotations: dict[str, str]
    splits: SplitsConfig
    split: str | None
    sets: dict[str, Any]
    proportions: dict[str, float]
    repeat_factor: float | None
    channels: int
    bit_depth: int | str
    batch_size: int | str
    workers: int | str
    cache: str
    cache_gib: float | None
    reduced_decoding: str | bool


@dataclass
class MosaicConfig:
    """p: share of samples made of four images; until: share of the epochs (1.0) or number of epochs (1) after which
    none are; scale: range of each image's factor; centre: range of the meeting point as a share of the side.
    """

    p: float
    until: int | float | None
    scale: list[float]
    centre: list[float]


@dataclass
class CopyPasteConfig:
    """p: share of samples into which objects of another image are pasted, by their masks; until: as of the mosaic;
    scale: range of the factor of the other image's scale.
    """

    p: float
    until: int | float | None
    scale: list[float]


@dataclass
class MixUpConfig:
    """p: share of samples that are blended with another; until: as of the mosaic; alpha: of the Beta distribution from
    which the shares are drawn, large: about a half.
    """

    p: float
    until: int | float | None
    alpha: float


@dataclass
class BatchMixConfig:
    """Of image classes alone, on the device. p: share of the batches whose images are mixed with each other; mixup,
    cutmix: alpha of the Beta distribution of the shares, 0: not this one; with both, each of them half the time.
    """

    p: float
    mixup: float
    cutmix: float


@dataclass
class AugmentConfig:
    """mosaic, copy_paste, mixup: in this order; transforms: one-key mappings {name: {argument: value}}, applied after
    them in their order, by the names of the backend, albumentations or torchvision (its transforms.v2); batch_mix:
    applied last.
    """

    mosaic: MosaicConfig
    copy_paste: CopyPasteConfig
    mixup: MixUpConfig
    backend: str
    transforms: list[dict[str, Any]]
    batch_mix: BatchMixConfig


@dataclass
class OptimConfig:
    """name: sgd, momentum (takes momentum), adam, adamw (take betas), rmsprop (takes alpha, the share of the mean
    square that is kept, and momentum) or muon (momentum for the hidden layers' weights, betas for AdamW on the rest).
    lr: the highest of the run; weight_decay, l1: not on norms and biases; layer_decay: factor on the rate from each
    stage of the backbone to the one before it. What each does is told in `visionkit.engine.optim`.
    """

    name: str
    lr: float
    weight_decay: float
    l1: float
    layer_decay: float
    betas: list[float] | None
    momentum: float | None
    alpha: float | None


@dataclass
class ScheduleConfig:
    """name: cosine or flat_cosine. warmup: share of all steps; warmup_steps wins over it when given. final: the last
    rate as a share of `optim.lr`. flat: share of all steps at the full rate before flat_cosine falls.
    epochs, least_steps, most_steps: how long training lasts, in whole epochs: `epochs` of them, more where they make
    fewer than least_steps, fewer where they make more than most_steps; `engine.epochs` wins over all three.
    """

    name: str
    warmup: float
    warmup_steps: int | None
    final: float
    flat: float | None
    epochs: int
    least_steps: int
    most_steps: int


@dataclass
class EmaConfig:
    """Moving average of the weights: decay per step, reached gradually over `warmup` steps; decay 0: the weights.

    A short run averages over a quarter of its steps at most, reached within its first tenth.
    """

    decay: float
    warmup: int


@dataclass
class EngineConfig:
    """The training loop.

    epochs: null: as many as `schedule` says. max_steps: null: no limit; else the first limit reached ends the run.
    max_hours: after which the run saves and ends as it does on a signal, to be resumed; null: never.
    timeout: seconds after which a process or a loader that does not answer ends the run.
    save_steps: also save every so many steps; 0: each epoch only.
    accumulate: batches a step. clip_norm: largest norm of the gradient; null: unclipped.
    precision: auto, bf16, fp16 or fp32. channels_last: auto, true or false.
    evaluate_every: epochs from one evaluation to the next; null: a hundredth of them, at least one.
    log_steps: steps from one logged line to the next.
    find_lr: only look for a learning rate, and draw the curve (`visionkit.engine.rate_finder`).
    compile: torch.compile. cuda_graphs: auto, true or false: replay the network in training instead of launching its
        kernels one by one; auto: on GPUs, unless a part is one's own (its Python would run once); never with compile.
    deterministic: the same numbers on each run of the same machine, at a price in time.
    max_bad_steps: steps with a loss that is not finite that are left out before the run stops.
    select: the number that chooses the best checkpoint: a "head/metric", or mean, the mean of all heads' main numbers,
        each divided by what `references` names for it ("head/metric": number).
    voc_ap: tell Pascal VOC's average precision of boxes beside COCO's.
    patience: evaluations without a higher `stop_on`, by min_delta at least, after which the run ends; null: it goes on.
        stop_on: a "head/metric"; null: what `select` says.
    train_slice: training images that each evaluation also scores, without augmentation; 0: none.
    """

    epochs: int | None
    max_steps: int | None
    max_hours: float | None
    timeout: float
    save_steps: int
    accumulate: int
    clip_norm: float | None
    precision: str
    channels_last: bool | str
    ema: EmaConfig
    evaluate_every: int | None
    log_steps: int
    find_lr: bool
    compile: bool
    cuda_graphs: bool | str
    deterministic: bool
    max_bad_steps: int
    select: str
    references: dict[str, float]
    voc_ap: bool
    patience: int | None
    stop_on: str | None
    min_delta: float
    train_slice: int


@dataclass
class JudgingConfig:
    """voc_ap, timeout: as in training; voc_ap null: as the checkpoint was trained."""

    voc_ap: bool | None
    timeout: float


@dataclass
class DebugConfig:
    """traceback: show where an error came from. images: use the first so many of each split; null: all."""

    traceback: bool
    images: int | None


@dataclass
class TrainingDebugConfig:
    """As `DebugConfig`; fault: what is to go wrong, to see what becomes of the run (`visionkit.engine.faults`); null:
    nothing.
    """

    traceback: bool
    images: int | None
    fault: str | None


@dataclass
class TrainConfig:
    """The whole of a training run.

    heads: names of `head` that the model has; null: those whose labels the data has. merges: names of `merge`, answers
    made from those of several heads. image_size: side of the canvas in pixels, or [height, width].
    run_dir: folder of the run; null: the next free `runs/<task>/<name>-NNN`. device: auto, cpu, mps, cuda or cuda:N.
    resume: none, auto or a run folder. resume_allow: what may differ from the run that goes on: keys, data.train,
    data.val, data.test, processes. track: tensorboard, wandb, mlflow, which are handed the run's numbers beside its own
    files (`visionkit.engine.recorders`). loss: of the classification head: auto, cross_entropy, focal or
    binary_cross_entropy (`visionkit.heads.class_loss`). metrics: the numbers that it is judged by, of which the first
    is the main one unless top1 (mAP) is among them; null: the usual ones (`visionkit.metrics.TopK`). weights: none,
    auto, a published name, a file, {path, mean, std}, or a run or checkpoint, of which all is taken that fits.
    head, merge: by name, the `_target_` and its arguments. metric: by head or merge, the `_target_` of the user's own
    metric, which judges it in place of the usual one.
    """

    task: str
    heads: list[str] | None
    merges: list[str]
    image_size: Any
    run_dir: str | None
    name: str
    device: str
    seed: int
    resume: str
    resume_allow: list[str]
    track: list[str]
    weights: Any
    loss: str
    metrics: list[str] | None
    model: ModelConfig
    head: dict[str, Any]
    merge: dict[str, Any]
    metric: dict[str, Any]
    preprocess: dict[str, Any]
    data: DataConfig
    augment: AugmentConfig
    optim: OptimConfig
    schedule: ScheduleConfig
    engine: EngineConfig
    debug: TrainingDebugConfig
