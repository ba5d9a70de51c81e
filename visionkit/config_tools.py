"""What the configurations of the tools may hold, as `visionkit.config_schema` says of a training run's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from visionkit.config_schema import DataConfig, DebugConfig, JudgingConfig, TrainConfig


@dataclass
class LoaderBenchmarkConfig(TrainConfig):
    """against: other loaders to time beside ours, ultralytics and torchvision; left out: none. index: also measure the
    index of a large annotation file; left out: false.
    """

    against: list[str]
    index: bool


@dataclass
class EvaluateConfig:
    """checkpoint: a checkpoint or run folder. data: what differs from the checkpoint's own (`evaluation_data`).
    run_dir: where metrics.json and predictions.json are written; null: beside the checkpoint's run. batch_size: images
    at a time, of each process. metrics, metric: as in training; null and {}: as the checkpoint was trained. allow: the
    packages or modules of the user's own that the checkpoint may name, here and in the other tools that take one; see
    `visionkit.load`.
    """

    checkpoint: str
    allow: list[str]
    run_dir: str | None
    device: str
    batch_size: int
    metrics: list[str] | None
    metric: dict[str, Any]
    data: dict[str, Any]
    engine: JudgingConfig
    debug: DebugConfig


@dataclass
class FeaturesConfig:
    """level: of the backbone or the neck; null: the backbone's coarsest. pool: one vector an image, the mean over the
    cells that hold image; false: the whole map of its canvas.
    """

    level: str | None
    pool: bool


@dataclass
class PredictConfig:
    """source: a file, folder, pattern or video; out: folder for what is saved; save: any of drawings, predictions
    (predictions.json, maps), csv, crops and features (features.npz); score: the least that is drawn, cut out and listed
    in the table, for all classes or by class; classes, tile, overlap, tta, batch_size: see `Predictor.predict`;
    on_error: skip files that cannot be read, stop at the first, or auto: stop where the source is one file. precision:
    fp32, bf16 or fp16; compile: fuse the network at the first batch of each shape; see `visionkit.load`.
    """

    checkpoint: str
    allow: list[str]
    source: str
    out: str
    save: list[str]
    features: FeaturesConfig
    device: str
    score: Any
    classes: list[str] | None
    tile: int | None
    overlap: float
    tta: bool
    on_error: str
    batch_size: int
    precision: str
    compile: bool
    debug: DebugConfig


@dataclass
class TracebackConfig:
    """traceback: show where an error came from."""

    traceback: bool


@dataclass
class ExportConfig:
    """out: the file, .onnx or .pt2; format: onnx or torch (torch.export); image_size: the canvas, one number or
    [height, width], null: the checkpoint's own; precision: fp32 or fp16; check: compare the file with the checkpoint,
    and write none that disagrees; images: a file, folder or pattern to compare on, null: the run's validation images.
    """

    checkpoint: str
    allow: list[str]
    out: str
    format: str
    image_size: Any
    precision: str
    check: bool
    images: str | None
    debug: TracebackConfig


@dataclass
class DemoConfig:
    """port: of the page, 0 for any that is free; score: the least of an object, at first; tile: pixels, null: the
    model's own canvas; max_upload_mb: megabytes of a file; max_megapixels: of an image.
    """

    checkpoint: str
    allow: list[str]
    port: int
    device: str
    score: float
    tile: int | None
    max_upload_mb: float
    max_megapixels: float
    debug: TracebackConfig


@dataclass
class CheckDataConfig:
    """task, image_size: those for which `shapes` draws its scenes; page: HTML file to write, with drawn examples, or
    null; fix: COCO JSON file to write, or null.
    """

    task: str
    image_size: Any
    data: DataConfig
    page: str | None
    fix: str | None
    debug: DebugConfig


@dataclass
class InspectModelConfig(TrainConfig):
    """A training configuration says what the model is. depth: of the table's rows, see `visionkit.inspection.table`;
    out: PNG of the model's parts, or with `image` a folder for pictures of what the model makes of that file.
    """

    depth: int | None
    out: str | None
    image: str | None


@dataclass
class InspectCheckpointConfig:
    """As `InspectModelConfig`, of a checkpoint; image_size: null: the checkpoint's own."""

    checkpoint: str
    allow: list[str]
    image_size: Any
    depth: int | None
    out: str | None
    image: str | None
    device: str
    debug: DebugConfig


@dataclass
class ProbeConfig(TrainConfig):
    """A training configuration says what model looks at what data. kind: linear or knn, a classifier on its features;
    k: neighbours of knn; level: of the features, null: the backbone's coarsest.
    """

    kind: str
    k: int
    level: str | None


@dataclass
class ProbeCheckpointConfig:
    """As `ProbeConfig`, of a checkpoint; data: what differs from the checkpoint's own (`evaluation_data`)."""

    checkpoint: str
    allow: list[str]
    kind: str
    k: int
    level: str | None
    run_dir: str | None
    device: str
    data: dict[str, Any]
    debug: DebugConfig


@dataclass
class ProbeFilesConfig:
    """As `ProbeConfig`, of features in files: those to learn from and those to be judged by."""

    train: str
    test: str
    kind: str
    k: int
    run_dir: str | None
    debug: DebugConfig


SCHEMAS: Mapping[str, type] = {
    "train": TrainConfig,
    "benchmark": TrainConfig,
    "benchmark loader": LoaderBenchmarkConfig,
    "evaluate": EvaluateConfig,
    "predict": PredictConfig,
    "export": ExportConfig,
    "demo": DemoConfig,
    "check_data": CheckDataConfig,
    "inspect_model": InspectModelConfig,
    "inspect_model checkpoint=": InspectCheckpointConfig,
    "probe": ProbeConfig,
    "probe checkpoint=": ProbeCheckpointConfig,
    "probe train=": ProbeFilesConfig,
}

PATH_KEYS = (
    "data.root",
    "run_dir",
    "resume",
    "weights",
    "checkpoint",
    "source",
    "out",
    "page",
    "fix",
    "image",
    "images",
    "train",
    "test",
)
"""Keys that hold a path, beside `data.annotations.*`: typed without quotes, `~` means the home folder."""
