"""The command line: `visionkit train task=detect`, and the same tools as scripts in `tools/`."""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from visionkit.error_codes import mend_lines
from visionkit.errors import CodedLine, ConfigError, RunError, UserError, did_you_mean, listed, printable
from visionkit.tool_help import overview, usage

TOOLS = {
    "train": ("visionkit.engine.run", "train_run", "train a model"),
    "evaluate": ("visionkit.engine.judging", "evaluate_run", "score a checkpoint"),
    "predict": ("visionkit.predict_files", "predict_run", "draw and save a checkpoint's predictions"),
    "export": ("visionkit.export.run", "export_run", "write a checkpoint as one ONNX or torch.export file"),
    "demo": ("visionkit.demo.run", "demo_run", "try a checkpoint on your own images, on a page in the browser"),
    "benchmark": ("visionkit.engine.benchmark", "benchmark_run", "time inference, all heads together and one by one"),
    "benchmark loader": ("visionkit.engine.loader_benchmark", "loader_benchmark_run", "time the training loader"),
    "check_data": ("visionkit.cli", "check_data_run", "look for faults in a data set"),
    "probe": ("visionkit.probe", "probe_run", "judge a network's features by a simple classifier on them"),
    "inspect_model": ("visionkit.inspection.run", "inspect_run", "tell a model's layers, and draw what it has learned"),
}
"""Each tool's function, which takes the composed configuration and returns an exit code or None, and what it does."""

COMMANDS = {
    "doctor": ("visionkit.doctor", "doctor", "look whether this machine and its packages are fit for visionkit"),
    "list": ("visionkit.listing", "list_parts", "list what can be chosen: tasks, backbones, heads, weights, …"),
}
"""What has no configuration: functions that take what was typed, and run also where half of the packages is broken."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `visionkit TOOL key=value …`; return 2 for a fault in what was given, 1 for a failed run."""
    tool, *rest = (sys.argv[1:] if arguments is None else arguments) or ["--help"]
    known = {name: what for name, (_, _, what) in {**TOOLS, **COMMANDS}.items()}
    if tool == "help" and rest:
        tool, rest = " ".join(rest), ["--help"]
    if tool in ("--help", "-h", "help"):
        with _listener():
            print(overview("visionkit", known))
        return 0
    if tool in ("--version", "version"):
        print(importlib.import_module("visionkit").__version__)
        return 0
    if tool not in known:
        if "=" in tool:
            told = f"{tool}: a tool comes first, as in visionkit train {tool}"
        else:
            told = f"visionkit {tool}: there is no such tool{did_you_mean(tool, known)}"
        said = printable(f"{told}; {listed(list(known), 20)}; visionkit --help tells of them")
        print("\n".join([said, *mend_lines(["tool-unknown"])]), file=sys.stderr)
        return 2
    return run_tool(tool, rest, program=f"visionkit {tool}")


def run_tool(tool: str, arguments: Sequence[str], *, program: str | None = None) -> int:
    """Compose, check and run; errors become lines on stderr and an exit code.

    program: as it was started, for the help; None: as the script of that name in tools/.
    """
    program = program or f"python tools/{tool}.py"
    if tool == "benchmark" and list(arguments[:1]) == ["loader"]:
        tool, program, arguments = "benchmark loader", f"{program} loader", arguments[1:]
    show = any(text.lstrip("+").lower() == "debug.traceback=true" for text in arguments)
    try:
        if "--help" in arguments or "-h" in arguments:
            with _listener():
                print(_usage(tool, program))
            return 0
        if tool in COMMANDS:
            return _command(tool, arguments)
        if "--multirun" in arguments or "-m" in arguments:
            return _multirun(tool, [text for text in arguments if text not in ("--multirun", "-m")])
        return _call(tool, _composed(tool, arguments))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except UserError as error:
        if show:
            traceback.print_exc()
        print("\n".join([*map(printable, str(error).split("\n")), *mend_lines(error.codes)]), file=sys.stderr)
        return 2
    except Exception as error:
        if show:
            traceback.print_exc()
            return 1
        reason = (str(error).strip().splitlines() or [""])[0]
        known = isinstance(error, RunError)
        said = printable(reason) if known else f"{type(error).__name__}: {reason}"
        codes = getattr(error, "codes", ("unexpected",))
        print("\n".join([f"{said} (debug.traceback=true shows where)", *mend_lines(codes)]), file=sys.stderr)
        return 1


def _usage(tool: str, program: str) -> str:
    _, _, what = {**TOOLS, **COMMANDS}[tool]
    kinds = tuple(importlib.import_module("visionkit.listing").KINDS) if tool == "list" else ()
    return usage(tool, what, program, kinds)


def check_data_run(cfg: Any) -> int:
    """Check the split `data.split`, or all that `data.splits` names; return 2 if one has errors."""
    from visionkit.build import build_reader
    from visionkit.data.check_run import check_data

    lists = {cfg.data.split: cfg.data.split} if cfg.data.split else {}
    if not lists:
        for role, own in cfg.data.splits.items():
            lists |= {own: role} if own and own not in lists else {}
    if cfg.fix is not None and len(lists) != 1:
        raise ConfigError(
            f"fix={cfg.fix}: one split is written; choose it with data.split ({listed([*lists])})", code="value-missing"
        )
    sets = {key: {**one, "on_error": "skip"} for key, one in cfg.data.sets.items()}
    data = {**cfg.data, "on_error": "skip", "sets": sets}
    openers = {own: functools.partial(build_reader, data, role) for own, role in lists.items()}
    page, fix = (None if path is None else Path(path) for path in (cfg.page, cfg.fix))
    return check_data(openers, page=page, fix=fix)


def _command(tool: str, arguments: Sequence[str]) -> int:
    module, function, _ = COMMANDS[tool]
    with _listener():
        return int(getattr(importlib.import_module(module), function)(arguments))
    return 0


@contextlib.contextmanager
def _listener() -> Iterator[None]:
    """Print to somebody who may stop listening, such as head, which is no fault."""
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


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
        raise ConfigError(f"--multirun is for train, not for {tool}", code="key-not-taken")
    if any(text.startswith("data=[") for text in arguments):
        raise ConfigError("data=[…]: --multirun mixes no data sets; start each run by itself", code="keys-contradict")
    hydras = [text for text in arguments if text.startswith(("hydra/", "hydra."))]  # the launcher's and sweeper's own
    arguments = [text for text in arguments if text not in hydras]
    faults: list[CodedLine] = []
    for overrides in single_runs(arguments):
        try:
            compose(tool, overrides)
        except ConfigError as error:
            faults += error.faults
    if faults:
        raise ConfigError.of(faults)
    codes = [0]
    sys.argv = [tool, "--multirun", *hydras, *for_sweep(arguments, groups())]
    hydra.main(config_path=str(configs_folder()), config_name=tool, version_base="1.3")(
        lambda cfg: codes.append(_call(tool, checked(tool, cfg)))
    )()
    return max(codes)
