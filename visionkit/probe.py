"""Probes: how well a simple classifier answers from a network's features alone; the run of tools/probe.py."""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from visionkit.build import build_reader, describe_model
from visionkit.config import evaluation_data
from visionkit.data import EvaluationSet, batches, field_classes
from visionkit.engine.checkpoint import load_model, open_checkpoint
from visionkit.engine.device import loader_workers, memory_format, resolve_device, share_cores
from visionkit.engine.distributed import ALONE
from visionkit.engine.run_data import choose_heads, first, judging_loader, left_out, open_readers
from visionkit.engine.run_folder import made_folder, numbered_folder
from visionkit.engine.run_model import begun_model
from visionkit.errors import ConfigError, DataError, listed
from visionkit.features import FeatureFile, batch_features, feature_spec, read_features
from visionkit.interfaces import Reader
from visionkit.model import VisionModel
from visionkit.transfer import told_of_weights

_STRENGTHS = tuple(10.0**power for power in range(-5, 2))
"""Of which the linear probe takes the one that cross-validation on its training images finds best."""
_FOLDS = 5


@dataclass(frozen=True)
class Probed:
    """What a classifier on features answered.

    Attributes:
        answers: (N,) text, the class of each judged image.
        how: what the classifier is, with all that was chosen.
    """

    answers: np.ndarray
    how: str


def probe_run(cfg: DictConfig) -> int:
    """Fit a simple classifier to the features of the training images, judge it on others, print and save; return 0.

    Images are laid on their canvas as in evaluation, without augmentation, and the network is held still. Judged are
    the images of `test` where the data have that, else those of `val`. The run folder gets metrics.json and, where
    features were computed, features_train.npz and features_<split>.npz.

    Args:
        cfg: a training configuration, a checkpoint with what differs of its data, or two files of features; kind, k,
            level and run_dir.

    Raises:
        UserError: something given cannot be, or scikit-learn is not installed; before anything is written.
    """
    _scikit_learn("linear_model")
    if "train" in cfg:
        files = {"train": read_features(Path(cfg.train)), "test": read_features(Path(cfg.test))}
    elif "checkpoint" in cfg:
        files = _features_of_checkpoint(cfg)
    else:
        files = _features_of_run(cfg)
    judged = next(split for split in files if split != "train")
    probed = probe(files["train"], files[judged], kind=cfg.kind, k=cfg.k)
    folder = (
        numbered_folder(Path("runs") / "probe", cfg.kind) if cfg.run_dir is None else made_folder(Path(cfg.run_dir))
    )
    if "train" not in cfg:
        for split, file in files.items():
            file.write(folder / f"features_{split}.npz")
    numbers = _numbers(probed.answers, labels_of(files[judged]))
    told = {"split": judged, "level": files[judged].level, "classifier": probed.how, **numbers}
    (folder / "metrics.json").write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    counts = f"{len(files['train'].names)} train and {len(files[judged].names)} {judged} images"
    print(f"{counts}, {files[judged].features.shape[1]} features of {files[judged].level}; {probed.how}")
    for name, value in numbers.items():
        print(f"{name:<32} {value:.4f}")
    print(f"written to {folder}")
    return 0


def probe(train: FeatureFile, test: FeatureFile, *, kind: str = "linear", k: int = 5) -> Probed:
    """Answer for the features of `test` by a classifier that has seen those of `train` alone.

    Args:
        train: pooled features with labels, or names that begin with their class's folder.
        test: the same, of the same length.
        kind: "linear": logistic regression on standardised features, its strength chosen by cross-validation on
            `train`; "knn": the majority of the nearest neighbours by the angle between features.
        k: neighbours.

    Raises:
        ConfigError: scikit-learn is not installed, or more neighbours than images.
        DataError: features that do not belong together, or classes of which nothing was seen.
    """
    labels, wanted = labels_of(train), labels_of(test)
    if train.features.ndim != 2 or train.features.shape[1:] != test.features.shape[1:]:
        shapes = f"{train.features.shape[1:]} and {test.features.shape[1:]}"
        raise DataError(
            f"features of the shapes {shapes}: vectors of one length are wanted, of one level, pooled",
            code="features-unusable",
        )
    unseen = sorted(set(wanted.tolist()) - set(labels.tolist()))
    if unseen or len(set(labels.tolist())) < 2:
        fault = (
            f"there are no training images of {listed(unseen)}" if unseen else "all training images are of one class"
        )
        raise DataError(f"probe: {fault}", code="features-unusable")
    if kind == "knn" and k > len(labels):
        raise ConfigError(f"k={k}: there are only {len(labels)} training images", code="value-unfit")
    if kind == "knn":
        neighbours = _scikit_learn("neighbors").KNeighborsClassifier(n_neighbors=k, metric="cosine")
        return Probed(neighbours.fit(train.features, labels).predict(test.features), f"{k} nearest neighbours, cosine")
    return _linear(train.features, labels, test.features)


def labels_of(file: FeatureFile) -> np.ndarray:
    """(N,) text, the class of each image: as the file says, else the folder that its name begins with.

    Raises:
        DataError: neither tells it.
    """
    if file.labels is not None and file.classes is not None:
        named: np.ndarray = file.classes[file.labels]
        return named
    folders = [str(name).rpartition("/")[0].partition("/")[0] for name in file.names]
    if not all(folders):
        alone = next(str(name) for name, folder in zip(file.names, folders, strict=True) if not folder)
        raise DataError(
            f"{alone}: nothing tells its class; take features of a folder with a folder for each class",
            code="features-unusable",
        )
    return np.array(folders)


def _linear(features: np.ndarray, labels: np.ndarray, judged: np.ndarray) -> Probed:
    regression = _scikit_learn("linear_model").LogisticRegression(max_iter=2000)
    steps = _scikit_learn("pipeline").make_pipeline(_scikit_learn("preprocessing").StandardScaler(), regression)
    folds = min(_FOLDS, int(np.unique(labels, return_counts=True)[1].min()))
    selection = _scikit_learn("model_selection")
    if folds < 2:  # a class with one image cannot be both learned and judged
        return Probed(steps.fit(features, labels).predict(judged), "linear, C=1")
    splits = selection.StratifiedKFold(folds, shuffle=True, random_state=0)
    search = selection.GridSearchCV(steps, {"logisticregression__C": list(_STRENGTHS)}, cv=splits)
    with warnings.catch_warnings(action="ignore"):  # weak penalties may not converge, and are not chosen then
        search.fit(features, labels)
    strength, score = search.best_params_["logisticregression__C"], search.best_score_
    return Probed(search.predict(judged), f"linear, C={strength:g} ({score:.4f} in {folds}-fold cross-validation)")


def _numbers(answers: np.ndarray, wanted: np.ndarray) -> dict[str, float]:
    right = answers == wanted
    classes = sorted(set(wanted.tolist()))
    recalls = {label: float(right[wanted == label].mean()) for label in classes}
    named = {f"probe/recall/{label}": value for label, value in recalls.items()} if len(classes) <= 20 else {}
    return {"probe/top1": float(right.mean()), "probe/mean_recall": float(np.mean([*recalls.values()])), **named}


# --------------------------------------------------------------------------------------------------------- the features
def _features_of_run(cfg: DictConfig) -> dict[str, FeatureFile]:
    """Of the training images and of those that are judged, by a model of a training configuration."""
    device = resolve_device(cfg.device)
    share_cores(loader_workers(cfg.data.workers, device), device)
    readers = open_readers(cfg)
    choose_heads(cfg, readers["train"])
    description = describe_model(cfg, readers["train"])
    torch.manual_seed(cfg.seed)
    model, taken = begun_model(cfg, description, ALONE, device)
    for line in told_of_weights(taken, cfg.weights):
        print(line)
    role = cfg.data.split or ("test" if "test" in readers else "val")
    chosen = {"train": readers["train"], role: readers[role] if role in readers else build_reader(cfg.data, role)}
    return _computed(model, chosen, cfg, cfg.data, device, channels_last=cfg.engine.channels_last)


def _features_of_checkpoint(cfg: DictConfig) -> dict[str, FeatureFile]:
    device = resolve_device(cfg.device)
    checkpoint = open_checkpoint(cfg.checkpoint)
    allowed = tuple(cfg.allow)
    model = load_model(checkpoint.folder, allowed)
    trained: Any = OmegaConf.create(checkpoint.config())
    data = evaluation_data(trained.data, cfg.data, allow=allowed)
    share_cores(loader_workers(data.workers, device), device)
    role = data.split or ("test" if data.splits.test is not None else "val")
    # A reader named by the checkpoint is data and passes the fence; one that the user names is code of the user's.
    allow = None if "reader" in cfg.data else allowed
    readers = {split: build_reader(data, split, allow=allow) for split in ("train", role)}
    return _computed(model, readers, cfg, data, device, channels_last="auto")


def _computed(
    model: VisionModel,
    readers: Mapping[str, Reader],
    cfg: DictConfig,
    data: Mapping[str, Any],
    device: torch.device,
    *,
    channels_last: bool | str,
) -> dict[str, FeatureFile]:
    level, _ = feature_spec(model, cfg.level)
    if len(readers) < 2:
        raise ConfigError(
            "data.split=train: the probe learns from these; name others to judge it by", code="value-unfit"
        )
    for split, reader in readers.items():
        if "class_scores" not in reader.fields:
            known = f"{split} knows only {', '.join(sorted(reader.fields))}"
            raise ConfigError(
                f"probe: one class for each image is wanted, and {known}; choose other data", code="labels-lacking"
            )
        for line in left_out(split, reader):
            print(line)
    model = model.to(device).eval().use_memory_format(memory_format(channels_last, device))
    return {
        split: _of_reader(model, first(reader, cfg.debug.images), level, data, device)
        for split, reader in readers.items()
    }


def _of_reader(
    model: VisionModel, reader: Reader, level: str, data: Mapping[str, Any], device: torch.device
) -> FeatureFile:
    classes: Sequence[str] = field_classes(reader)["class_scores"]
    judged = EvaluationSet(
        reader, model.preprocess, classes=(), image_classes=classes, fields=frozenset({"class_scores"})
    )
    names, labels, parts = [], [], []
    for batch in batches(judging_loader(judged, data, device)):
        images, sizes = batch.images.to(device, non_blocking=True), batch.targets.sizes.to(device)
        parts.append(batch_features(model, images, sizes, level))
        for name, truth in zip(batch.file_names, batch.labels, strict=True):
            scores = truth.class_scores
            if scores is None or not np.isclose(scores.max(), 1) or (scores > 0).sum() != 1:
                raise DataError(
                    f"{name}: one class is wanted for each image; this one has several, or none", code="label-count"
                )
            names.append(name)
            labels.append(int(scores.argmax()))
    return FeatureFile(np.array(names), np.concatenate(parts), level, np.array(labels), np.array(classes))


def _scikit_learn(module: str) -> Any:
    try:
        return importlib.import_module(f"sklearn.{module}")
    except ImportError as error:
        raise ConfigError(
            "probe: scikit-learn is not installed; pip install 'visionkit[probe]'", code="package-missing"
        ) from error
