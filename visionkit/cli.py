"""The command line: `visionkit train task=detect`, and the same tools as scripts in `tools/`."""

from __future__ import annotations

import functools
import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from visionkit.errors import ConfigError, RunError, UserError, did_you_mean, listed, printable

TOOLS = {
    "train": ("visionkit.engine.run", "train_run", "train a model"),
    "evaluate": ("visionkit.engine.judging", "evaluate_run", "score a checkpoint"),
    "predict": ("visionkit.predict_files", "predict_run", "draw and save a checkpoint's predictions"),
    "benchmark": ("visionkit.engine.benchmark", "benchmark_run", "time inference, all heads together and one by one"),
    "benchmark loader": ("visionkit.engine.loader_benchmark", "loader_benchmark_run", "time the training loader"),
    "check_data": ("visionkit.cli", "check_data_run", "look for faults in a data set"),
    "probe": ("visionkit.probe", "probe_run", "judge a network's features by a simple classifier on them"),
    "inspect_model": ("visionkit.inspection.run", "inspect_run", "tell a model's layers, and draw what it has learned"),
}
"""Each tool's function, which takes the composed configuration and returns an exit code or None, and what it does."""

_USUAL = {
    "train": (
        "task=detect|classify|localize|semantic|instance|panoptic|multitask", "heads=[…]", "data=NAME data.root=DIR",
        "backbone=NAME", "weights=none|NAME|FILE", "image_size=640",
        "run_dir=DIR", "resume=none|auto|DIR", "resume_allow=[KEY,…]", "device=auto|cpu|cuda:0|mps", "seed=0",
        "engine.epochs=N", "engine.max_steps=N", "data.batch_size=N", "data.workers=N|auto", "optim.lr=X", "debug=tiny",
    ),
    "evaluate": ("checkpoint=DIR", "data.split=NAME", "data.seed=N", "data=NAME data.root=DIR", "run_dir=DIR",
                 "batch_size=16"),
    "predict": ("checkpoint=DIR", "source=FILE|DIR|GLOB|VIDEO", "out=DIR", "save=[drawings,predictions,features]",
                "features.level=c5", "features.pool=true", "score=0.3", "batch_size=16", "device=auto"),
    "benchmark": ("task=multitask heads=[…]", "backbone=NAME", "image_size=640", "data.batch_size=N", "device=auto",
                  "engine.precision=auto|bf16|fp32", "resume=none|RUN", "run_dir=DIR"),
    "benchmark loader": ("data=NAME data.root=DIR", "task=detect", "image_size=640", "data.batch_size=N",
                         "data.workers=N", "data.cache=none|ram|disk", "against=[ultralytics,torchvision]",
                         "index=true", "run_dir=DIR"),
    "check_data": ("data=NAME data.root=DIR", "data.split=NAME", "data.seed=N", "page=OUT.html", "fix=OUT.json",
                   "task=detect"),
    "probe": ("data=NAME data.root=DIR", "backbone=NAME weights=NAME|FILE|RUN", "checkpoint=DIR (in place of these)",
              "train=FILE.npz test=FILE.npz (in place of all these)", "kind=linear|knn", "k=5", "level=c5",
              "run_dir=DIR"),
    "inspect_model": ("task=detect heads=[…]", "backbone=NAME", "image_size=640", "weights=none|NAME|FILE|RUN",
                      "checkpoint=DIR (in place of these)", "depth=N", "out=model.png", "image=FILE out=DIR"),
}  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `visionkit TOOL key=value …`; return 2 for a fault in what was given, 1 for a failed run."""
    tool, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    if tool in ("--help", "-h", "help"):
        print(
            "\n".join(
                ["usage: visionkit TOOL key=value …", *(f"  {name:<17} {what[2]}" for name, what in TOOLS.items())]
            )
        )
        return 0
    if tool == "--version":
        print(importlib.import_module("visionkit").__version__)
        return 0
    if tool not in TOOLS:
        print(
            f"visionkit {tool}: there is no such tool{did_you_mean(tool, TOOLS)}; {listed(list(TOOLS))}",
            file=sys.stderr,
        )
        return 2
    return run_tool(tool, rest)


def run_tool(tool: str, arguments: Sequence[str]) -> int:
    """Compose, check and run; errors become lines on stderr and an exit code."""
    if tool == "benchmark" and list(arguments[:1]) == ["loader"]:
        tool, arguments = "benchmark loader", arguments[1:]
    show = any(text.lstrip("+").lower() == "debug.traceback=true" for text in arguments)
    try:
        if "--help" in arguments or "-h" in arguments:
            print(usage(tool))
            return 0
        if "--multirun" in arguments or "-m" in arguments:
            return _multirun(tool, [text for text in arguments if text not in ("--multirun", "-m")])
        return _call(tool, _composed(tool, arguments))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except UserError as error:
        if show:
            traceback.print_exc()
        print("\n".join(map(printable, str(error).split("\n"))), file=sys.stderr)
        return 2
    except Exception as error:
        if show:
            traceback.print_exc()
            return 1
        reason = (str(error).strip().splitlines() or [""])[0]
        said = printable(reason) if isinstance(error, RunError) else f"{type(error).__name__}: {reason}"
        print(f"{said} (debug.traceback=true shows where)", file=sys.stderr)
        return 1


def usage(tool: str) -> str:
    """Return the help of a tool: its usual keys, and the groups with their choices."""
    config = importlib.import_module("visionkit.config")
    chosen = importlib.import_module("visionkit.overrides").CHOSEN_IN[tool]
    script, _, mode = tool.partition(" ")
    lines = [
        f"{tool}: {TOOLS[tool][2]}",
        f"usage: python tools/{script}.py {f'{mode} ' if mode else ''}key=value …",
        "",
        "usual keys",
    ]
    lines += [f"  {text}" for text in _USUAL[tool]]
    groups = {name: names for name, names in config.groups().items() if names and (chosen is None or name in chosen)}
    if groups:
        lines += ["", "groups, as group=name"] + [f"  {name:<11} {' '.join(names)}" for name, names in groups.items()]
    if tool == "train":
        lines += ["", "a head's arguments are head.<name>.<argument>, the reader's are data.reader.<argument>;"]
        lines += ["every key is explained in visionkit/config_schema.py"]
        lines += ["--multirun runs all combinations of values given as key=a,b"]
    return "\n".join(lines)


def check_data_run(cfg: Any) -> int:
    """Check the split `data.split`, or all that `data.splits` names; return 2 if one has errors."""
    from visionkit.build import build_reader
    from visionkit.data.check_run import check_data

    lists = {cfg.data.split: cfg.data.split} if cfg.data.split else {}
    if not lists:
        for role, own in cfg.data.splits.items():
            lists |= {own: role} if own and own not in lists else {}
    if cfg.fix is not None and len(lists) != 1:
        raise ConfigError(f"fix={cfg.fix}: one split is written; choose it with data.split ({listed([*lists])})")
    sets = {key: {**one, "on_error": "skip"} for key, one in cfg.data.sets.items()}
    data = {**cfg.data, "on_error": "skip", "sets": sets}
    openers = {own: functools.partial(build_reader, data, role) for own, role in lists.items()}
    page, fix = (None if path is None else Path(path) for path in (cfg.page, cfg.fix))
    return check_data(openers, page=page, fix=fix)


def _composed(tool: str, arguments: Sequence[str]) -> Any:
    """The configuration; where it is wrong, the first of several processes says so for all."""
    try:
        return importlib.import_module("visionkit.config").compose(tool, arguments)
    except ConfigError as error:
        if os.environ.get("RANK", "0") != "0":
            raise SystemExit(2) from error
        raise


def _call(tool: str, cfg: Any) -> int:
    module, function, _ = TOOLS[tool]
    return int(getattr(importlib.import_module(module), function)(cfg) or 0)


def _multirun(tool: str, arguments: Sequence[str]) -> int:
    """Hand a sweep over to Hydra, after every single value has been checked; return the worst exit code."""
    import hydra

    from visionkit.config import checked, compose, configs_folder, groups
    from visionkit.overrides import for_sweep, single_runs

    if tool != "train":
        raise ConfigError(f"--multirun is for train, not for {tool}")
    if any(text.startswith("data=[") for text in arguments):
        raise ConfigError("data=[…]: --multirun mixes no data sets; start each run by itself")
    hydras = [text for text in arguments if text.startswith(("hydra/", "hydra."))]  # the launcher's and sweeper's own
    arguments = [text for text in arguments if text not in hydras]
    faults: list[str] = []
    for overrides in single_runs(arguments):
        try:
            compose(tool, overrides)
        except ConfigError as error:
            faults += str(error).splitlines()
    if faults:
        raise ConfigError("\n".join(dict.fromkeys(faults)))
    codes = [0]
    sys.argv = [tool, "--multirun", *hydras, *for_sweep(arguments, groups())]
    hydra.main(config_path=str(configs_folder()), config_name=tool, version_base="1.3")(
        lambda cfg: codes.append(_call(tool, checked(tool, cfg)))
    )()
    return max(codes)
