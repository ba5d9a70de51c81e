"""What `visionkit TOOL --help` tells: the keys that matter first, the others by name, the choices, an example."""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass

_WIDTH = 110


@dataclass(frozen=True)
class ToolHelp:
    """first: the keys that matter first, each with what it does. example: what one might type behind the tool's name.
    more: other usual keys, which speak for themselves.
    """

    first: Mapping[str, str]
    example: str
    more: tuple[str, ...] = ()

    def takes(self, key: str) -> bool:
        """Whether a key such as "checkpoint" is told of."""
        return any(text.startswith(f"{key}=") for text in (*self.first, *self.more))


_DATA = "your labelled images; the format is recognised (data=NAME names it); left out: generated scenes"
_CHECKPOINT = "a run folder (its best checkpoint) or a checkpoint folder"
_SET = "another data set than the checkpoint's own"

HELP: Mapping[str, ToolHelp] = {
    "train": ToolHelp(
        {
            "task=NAME": "the question: classify, localize, detect, semantic, instance, panoptic or multitask",
            "data.root=DIR": _DATA,
            "backbone=NAME": "the network that all heads share; `visionkit list backbones` shows them",
            "engine.epochs=N": "how often training sees every image",
            "run_dir=DIR": "where the run is kept; left out: the next free runs/<task>/<name>-NNN",
        },
        "task=detect data.root=photos run_dir=runs/mine",
        ("heads=[…]", "data=NAME", "weights=none|auto|NAME|FILE|RUN", "image_size=640", "data.batch_size=N|auto",
         "data.workers=N|auto", "optim.lr=X", "engine.max_steps=N", "resume=none|auto|DIR", "resume_allow=[KEY,…]",
         "device=auto|cpu|cuda:0|mps", "seed=0", "debug=tiny"),
    ),
    "evaluate": ToolHelp(
        {
            "checkpoint=DIR": _CHECKPOINT,
            "data.split=NAME": "the list of images to score: val (as it is left out), test, or one of the set's own",
            "data.root=DIR": f"{_SET} (data=NAME names its format)",
            "run_dir=DIR": "where metrics.json and predictions.json go; left out: beside the checkpoint's run",
            "batch_size=16": "images at a time",
        },
        "checkpoint=runs/mine data.split=test",
        ("data=NAME", "data.seed=N", "device=auto|cpu|cuda:0|mps", "engine.voc_ap=true", "allow=[PACKAGE]"),
    ),
    "predict": ToolHelp(
        {
            "checkpoint=DIR": _CHECKPOINT,
            "source=PATH": "an image, a folder, a pattern in quotes such as 'photos/*.jpg', or a video",
            "out=DIR": "where the results go",
            "score=0.3": "the least score of what is drawn; by class: 'score={cat: 0.5, dog: 0.2}'",
            "classes=[a,b]": "these alone",
            "save=[…]": "what is written: drawings, predictions (predictions.json), csv, crops, features",
            "tile=640": "look at large images in tiles of so many pixels, too",
            "tta=true": "look at each image mirrored and larger, too; slower and better",
        },
        "checkpoint=runs/mine source=photos out=drawn",
        (
            "overlap=0.2", "on_error=auto|skip|stop", "features.level=c5", "features.pool=true", "batch_size=16",
            "device=auto|cpu|cuda:0|mps", "precision=fp32|bf16|fp16", "compile=false", "allow=[PACKAGE]",
        ),
    ),
    "export": ToolHelp(
        {
            "checkpoint=DIR": _CHECKPOINT,
            "out=FILE": "the file, ending in .onnx or .pt2",
            "format=onnx|torch": "for onnxruntime, or a package of torch.export",
            "images=PATH": "a file, folder or pattern to compare both on; left out: the run's own validation images",
            "image_size=640": "side of the canvas in pixels; left out: as the checkpoint was trained",
        },
        "checkpoint=runs/mine out=mine.onnx",
        ("precision=fp32|fp16", "check=true|false", "allow=[PACKAGE]"),
    ),
    "demo": ToolHelp(
        {
            "checkpoint=PATH": f"{_CHECKPOINT}, or an exported file",
            "port=7860": "the page is http://127.0.0.1:7860, for this machine alone; port=0 takes any that is free",
            "score=0.3": "the least score of an object, where the page's slider begins",
            "tile=640": "pixels of a tile, where tiles are chosen on the page",
            "max_upload_mb=20": "megabytes that an image may have",
            "max_megapixels=50": "megapixels that an image may have",
        },
        "checkpoint=runs/mine",
        ("device=auto|cpu|cuda:0|mps", "allow=[PACKAGE]"),
    ),
    "benchmark": ToolHelp(
        {
            "task=multitask": "whose model is timed; with heads=[…] those of several",
            "backbone=NAME": "the network that all heads share",
            "image_size=640": "side of the images in pixels",
            "data.batch_size=N": "images at a time",
            "device=auto": "where to: cpu, cuda:0, mps",
        },
        "task=detect image_size=640 data.batch_size=32",
        ("heads=[…]", "engine.precision=auto|bf16|fp32", "resume=none|RUN", "run_dir=DIR"),
    ),
    "benchmark loader": ToolHelp(
        {
            "data.root=DIR": _DATA,
            "image_size=640": "side of the images in pixels",
            "data.batch_size=N": "images at a time",
            "data.workers=N": "loading processes",
            "against=[…]": "other loaders to time beside: ultralytics, torchvision",
        },
        "data.root=photos data.workers=4",
        ("task=detect", "data=NAME", "data.cache=none|ram|disk", "index=true", "run_dir=DIR"),
    ),
    "check_data": ToolHelp(
        {
            "data.root=DIR": _DATA,
            "data.split=NAME": "one list of images; left out: all",
            "page=OUT.html": "a page with drawn examples of every finding",
            "fix=OUT.json": "a mended copy of one split's labels, as COCO JSON",
            "task=NAME": "the question that the labels are to answer",
        },
        "data.root=photos page=check.html",
        ("data=NAME", "data.seed=N"),
    ),
    "probe": ToolHelp(
        {
            "data.root=DIR": _DATA,
            "backbone=NAME": "the network whose features are judged, with weights=auto|NAME|FILE|RUN",
            "checkpoint=DIR": f"in place of a backbone: {_CHECKPOINT}",
            "kind=linear|knn": "the classifier on the features; knn takes k=5",
            "run_dir=DIR": "where the numbers go",
        },
        "data.root=photos backbone=resnet18 weights=DEFAULT",
        ("data=NAME", "train=FILE.npz test=FILE.npz (in place of all these)", "level=c5"),
    ),
    "inspect_model": ToolHelp(
        {
            "task=NAME": "whose model is looked into; with heads=[…] those of several",
            "backbone=NAME": "the network that all heads share; `visionkit list backbones` shows them",
            "checkpoint=DIR": f"in place of these: {_CHECKPOINT}",
            "out=PATH": "model.png: a picture of its parts; beside image=FILE the folder for pictures of what it sees",
            "depth=N": "rows of the table: 1 a part, more for the layers in it",
        },
        "task=detect backbone=resnet50 depth=2",
        ("heads=[…]", "weights=none|auto|NAME|FILE|RUN", "image_size=640", "image=FILE"),
    ),
    "doctor": ToolHelp(
        {
            "device=auto": "where the small trial step runs: cpu, cuda:0, mps",
            "run_dir=runs": "the folder in which runs will be kept, which is tried out",
            "json=true": "the findings as JSON, for machines (also --json)",
        },
        "json=true",
    ),
    "list": ToolHelp(
        {
            "json=true": "the list as JSON, for machines (also --json)",
        },
        "backbones",
    ),
}  # fmt: skip


def usage(tool: str, what: str, program: str, kinds: tuple[str, ...] = ()) -> str:
    """Return the help of a tool.

    Args:
        tool: a key of `HELP`.
        what: it does, in a line.
        program: as it is started here, such as "visionkit train".
        kinds: words of which one may be given before the keys.
    """
    told = HELP[tool]
    word = f" [{'|'.join(kinds)}]" if kinds else ""
    lines = [f"{tool}: {what}", *_wrapped(f"usage: {program}{word} [key=value …]", "         ")]
    lines += [f"such as: {program} {told.example}", "", "what matters first"]
    width = max(map(len, told.first))
    lines += [f"  {key:<{width}}  {text}" for key, text in told.first.items()]
    if told.more:
        lines += ["", "more keys", *_wrapped("  " + "  ".join(key.replace(" ", "\0") for key in told.more), "  ")]
    lines += _choices(tool)
    if tool == "train":
        lines += ["", "a head's arguments are head.<name>.<argument>, the reader's are data.reader.<argument>;"]
        lines += ["every key is explained in visionkit/config_schema.py"]
        lines += ["--multirun runs all combinations of values given as key=a,b"]
    return "\n".join(lines).replace("\0", " ")


def overview(program: str, tools: Mapping[str, str]) -> str:
    """Return the help of the whole: every tool with what it does, and how to begin."""
    width = max(map(len, tools))
    lines = [f"usage: {program} TOOL [key=value …]", ""]
    lines += [f"  {name:<{width}}  {what}" for name, what in tools.items()]
    lines += ["", "such as"]
    begin = {
        "train task=detect": "a detector for generated scenes: nothing to download, minutes on a CPU",
        "train task=detect data.root=photos": "the same for your own labelled photographs",
        "predict checkpoint=runs/detect/latest source=photos out=drawn": "what the last detector sees in others",
    }
    for typed, told in begin.items():
        lines += [f"  {program} {typed}", f"      {told}"]
    lines += ["", f"{program} TOOL --help   the keys of a tool", f"{program} --version     the version"]
    return "\n".join(lines)


def _choices(tool: str) -> list[str]:
    """The configuration groups of which a tool takes a choice, with all choices."""
    chosen_in = importlib.import_module("visionkit.overrides").CHOSEN_IN
    if tool not in chosen_in:
        return []
    groups = importlib.import_module("visionkit.config").groups()
    allowed = chosen_in[tool]
    taken = {name: names for name, names in groups.items() if names and (allowed is None or name in allowed)}
    lines = ["", "groups, as group=name"] if taken else []
    for name, names in taken.items():
        lines += _wrapped(f"  {name:<13} {' '.join(names)}", " " * 16)
    return lines


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False)
