"""What the configuration groups and metrics say of themselves, for `visionkit list`."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from visionkit.config import configs_folder, groups
from visionkit.listing import Part

_PAPER = re.compile(r"[A-Z][\w-]+(?: et al\.,?| (?:&|and) [A-Z][\w-]+),? \(?(?:[A-Z][A-Za-z]+ )?(?:19|20)\d\d\)?")
"""As docstrings cite: "Li et al. 2020", "Glorot and Bengio (2010)", "Lin et al., ECCV 2014"."""


def tasks() -> list[Part]:
    """The tasks, with the answers that each gives."""
    from visionkit.build import build_metrics
    from visionkit.listing_networks import model_of, parameters

    parts = []
    for name in groups()["task"]:
        model = model_of(name)
        numbers = ", ".join(f"{answer}/{metric.headline}" for answer, metric in build_metrics(model).items())
        parts.append(Part(f"task={name}", f"{first_comment('task', name)} ({numbers})", "", parameters(model)))
    return parts


def readers() -> list[Part]:
    """The formats, then the ready configurations of known sets."""
    formats: list[Part] = []
    ready: list[Part] = []
    for name in groups()["data"]:
        text = _file("data", name).read_text(encoding="utf-8")
        defaults = re.search(r"^defaults:\n  - (\w+)", text, re.MULTILINE)
        is_set = "${oc.env:VISIONKIT_DATA" in text
        target = re.search(r"_target_: ([\w.]+)", text)
        reader = target[1] if target else f"as data={defaults[1]}" if defaults else ""
        part = Part(f"data={name}", first_comment("data", name), reader, None, "ready sets" if is_set else "formats")
        (ready if is_set else formats).append(part)
    return [*formats, *ready]


def optimizers() -> list[Part]:
    """The optimizers, with the rate that each begins with."""
    parts = []
    for name in groups()["optim"]:
        own: Any = OmegaConf.to_container(OmegaConf.load(_file("optim", name)))
        keys = ", ".join(f"{key} {value}" for key, value in own.items() if key != "name")
        parts.append(Part(f"optim={name}", f"{first_comment('optim', name)}; {keys}"))
    return parts


def schedules() -> list[Part]:
    """The schedules of the learning rate."""
    return [Part(f"schedule={name}", first_comment("schedule", name)) for name in groups()["schedule"]]


def augmentations() -> list[Part]:
    """The ready augmentations, by the task that they are made for, with what each applies."""
    parts = []
    for name in groups()["augment"]:
        own: Any = OmegaConf.to_container(OmegaConf.load(_file("augment", name)))
        mixes = [mix for mix in ("mosaic", "copy_paste", "mixup", "batch_mix") if own.get(mix, {}).get("p")]
        applied = [*mixes, *(next(iter(one)) for one in own.get("transforms", []))]
        source = own.get("backend", "albumentations") if own.get("transforms") else ""
        says = f"{first_comment('augment', name)}; {', '.join(applied)}" if applied else first_comment("augment", name)
        parts.append(Part(f"augment={name}", says, source, None, name.partition("_")[0]))
    return parts


def metrics() -> list[Part]:
    """The numbers of each head and merge, as they are named in metrics.json."""
    from visionkit import metrics as known
    from visionkit.metrics.classification import MULTI_LABEL_NUMBERS, NUMBERS

    classes = ("a", "b")
    of_heads: dict[str, Any] = {
        "classification": known.TopK(classes, numbers=NUMBERS),
        "classification (several labels)": known.TopK(classes, multi_label=True, numbers=MULTI_LABEL_NUMBERS),
        "localization": known.LocalizationAccuracy(classes),
        "detection": known.CocoDetection(classes),
        "semantic": known.SemanticScores(classes),
        "instance": known.CocoInstances(classes),
        "panoptic": known.PanopticQuality(classes, things=classes[:1]),
    }
    parts = []
    for head, metric in of_heads.items():
        names = [name for name in metric.compute() if not name.endswith(classes)]
        name = head.partition(" ")[0]
        says = f"{summary(type(metric))}: {', '.join(names)}"
        parts.append(Part(f"{name}/{metric.headline}", says, papers(type(metric)), None, head))
    return parts


def first_comment(group: str, name: str) -> str:
    """The first sentence of the comment at the head of a configuration file."""
    lines = _file(group, name).read_text(encoding="utf-8").splitlines()
    told: list[str] = []
    for line in lines:
        if not line.startswith("#"):
            break
        told += [] if line.startswith("# @package") else [line.lstrip("# ")]
    return re.split(r"(?<=\?)\s|(?<!et al)\.(?=\s|$)|:? python tools/|: \w+=", " ".join(told).replace("`", ""))[0]


def summary(described: Any) -> str:
    """The first sentence of a docstring, without marks of code."""
    text = " ".join((inspect.getdoc(described) or "").partition("\n\n")[0].split())
    sentence = re.split(r"(?<!et al)\.(?=\s|$)", text)[0]
    return sentence.removesuffix("; satisfies `interfaces.Metric`").replace("`", "").rstrip(":")


def papers(described: Any) -> str:
    """What a docstring cites, or its module's where it cites nothing."""
    for text in (inspect.getdoc(described), inspect.getdoc(inspect.getmodule(described))):
        found = [re.sub(r"[(),]", "", one) for one in _PAPER.findall(" ".join((text or "").split()))]
        if found:
            return "; ".join(dict.fromkeys(found))
    return ""


def _file(group: str, name: str) -> Path:
    return configs_folder() / group / f"{name}.yaml"
