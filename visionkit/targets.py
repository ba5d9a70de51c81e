"""`_target_`: from a dotted path and its arguments to the object. The dotted path is the only registry.

Hydra's own `instantiate` is not used: it turns dataclasses among the arguments (a `FeatureSpec`) into configs, wraps
every error in one of its own, and walks any attribute, so that a path with an allowed prefix reaches all of Python.
"""

from __future__ import annotations

import functools
import importlib
import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union, get_args, get_origin, get_type_hints

from omegaconf import OmegaConf

from visionkit.errors import CheckpointError, CodedLine, ConfigError, did_you_mean, listed, printable

PARTS = (
    "visionkit.backbones",
    "visionkit.data.readers",
    "visionkit.heads",
    "visionkit.necks",
    "visionkit.preprocess",
)
"""The packages of visionkit whose public classes a file may name."""
_MARKS = ("_target_", "_partial_")
_SCALARS = (bool, int, float, str)
_NOT_FROM_FILES = {
    "weights": "names what is opened or fetched, and a checkpoint has weights of its own",
    "cache_folder": "names a folder that is written to; set VISIONKIT_CACHE instead",
}
"""Arguments of `PARTS` that only the user may give."""


def build(node: Any, /, *args: Any, allow: Sequence[str] | None = None, **kwargs: Any) -> Any:
    """Make what a configuration node describes; a node without `_target_` gives plain containers.

    Nested nodes are made first. `_partial_: true` gives a functools.partial instead of the object.

    Args:
        node: a config or plain mapping, list or value; interpolations are resolved.
        *args: further arguments of the outermost target, handed over as they are.
        **kwargs: the same; they win over the node's own.
        allow: None: any importable target (the user's own configuration). A sequence: the fence for a configuration
            that came with a file. Only the public classes of `PARTS`, and what belongs to the packages named, are made;
            every target is looked up before the first is called.

    Raises:
        ConfigError: a target does not exist.
        CheckpointError: a target lies outside the fence, or has an argument that a file may not give.
    """
    plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
    found = _looked_up(plain, "", allow)
    if isinstance(found, _Call):
        return _called(found, args, kwargs)
    if args or kwargs:
        raise ConfigError("a node without _target_ takes no arguments", code="key-not-taken")
    return _made(found)


def check_fence(node: Any, allow: Sequence[str]) -> None:
    """Refuse a node of a file with a target outside the fence; nothing is called, and nothing outside is imported.

    Raises:
        CheckpointError: naming the target.
    """
    _looked_up(OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node, "", allow)


def target_faults(node: Any, path: str) -> list[CodedLine]:
    """Return one line per target below `node` that does not exist, or argument that it does not have or lacks.

    path: the dotted key of `node`, for the messages. A partial may lack arguments.
    """
    faults: list[CodedLine] = []
    for where, mapping in _targets(node, path):
        unknown = [key for key in mapping if key.startswith("_") and key not in _MARKS]
        faults += [
            CodedLine(f"{where}.{key}: only {listed(_MARKS)} are known{did_you_mean(key, _MARKS)}", "key-unknown")
            for key in unknown
        ]
        try:
            target = locate(mapping["_target_"])
        except ConfigError as error:
            faults.append(CodedLine(f"{where}.{error}", error.code))
            continue
        faults += _argument_faults(target, mapping, where)
    return faults


def parameters(target: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """Return the parameters of a function or of a class's constructor, by name."""
    return inspect.signature(target).parameters


def locate(path: Any) -> Any:
    """Return the callable at a dotted path.

    Raises:
        ConfigError: nothing there, or nothing that can be called.
    """
    if not isinstance(path, str) or not all(part.isidentifier() for part in path.split(".")):
        raise ConfigError(
            f"_target_={path}: a dotted path such as visionkit.backbones.CSP is wanted", code="target-unknown"
        )
    parts = path.split(".")
    for count in range(len(parts) - 1, 0, -1):
        name = ".".join(parts[:count])
        try:
            found: Any = importlib.import_module(name)
        except ModuleNotFoundError as error:
            if error.name is None or not (name == error.name or name.startswith(error.name + ".")):
                raise ConfigError(
                    f"_target_={path}: importing {name} failed: {error}", code="target-unknown"
                ) from error
            continue
        except ImportError as error:
            raise ConfigError(f"_target_={path}: importing {name} failed: {error}", code="target-unknown") from error
        for part in parts[count:]:
            if not hasattr(found, part):
                hint = did_you_mean(part, [known for known in dir(found) if not known.startswith("_")])
                raise ConfigError(f"_target_={path}: {name} has no '{part}'{hint}", code="target-unknown")
            found = getattr(found, part)
        if not callable(found):
            raise ConfigError(f"_target_={path}: this is no class or function", code="target-unknown")
        return found
    raise ConfigError(
        f"_target_={path}: there is no module '{parts[0]}'; a dotted path such as visionkit.heads.X is wanted",
        code="target-unknown",
    )


def locate_fenced(path: Any, allow: Sequence[str] = ()) -> Any:
    """Return the callable at a dotted path that a file has asked for, if it lies inside the fence.

    The path must be a module and a name in it. Inside visionkit the module must be one of `PARTS`, and the name be in
    its `__all__` and be a class that visionkit defines; in the packages of `allow` it must be defined by that package.

    Raises:
        CheckpointError: it lies outside. Nothing outside has been imported then.
    """
    module_name, _, name = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    shown = printable(str(path)[:200])
    own = _inside(module_name, "visionkit")
    package = "visionkit" if own else next((one for one in allow if _inside(module_name, one)), None)
    if package is None:
        mend = f"load it with allow=['{shown.partition('.')[0]}'] if you trust its code"
        raise CheckpointError(
            f"_target_={shown}: a checkpoint may only name parts of visionkit; {mend}", code="checkpoint-refused"
        )
    refused = CheckpointError(
        f"_target_={shown}: this is not a part that a checkpoint may name ({_named(package)})",
        code="checkpoint-refused",
    )
    if own and module_name not in PARTS:
        raise refused
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise CheckpointError(
            f"_target_={shown}: there is no module '{module_name}' ({error})", code="checkpoint-refused"
        ) from error
    found = getattr(module, name, None)
    at_home = _inside(str(getattr(found, "__module__", "")), package)
    if not callable(found) or not at_home or (own and not (name in module.__all__ and inspect.isclass(found))):
        raise refused
    return found


def _named(package: str) -> str:
    """What may be named of a package, in words."""
    return f"a public class of {listed(PARTS)}" if package == "visionkit" else f"what {package} defines"


@dataclass(frozen=True)
class _Call:
    """A target that was found, with arguments that may hold further calls."""

    target: Callable[..., Any]
    partial: bool
    arguments: dict[str, Any]


def _looked_up(node: Any, path: str, allow: Sequence[str] | None) -> Any:
    if isinstance(node, Mapping):
        items = {key: _looked_up(value, f"{path}.{key}", allow) for key, value in node.items()}
        if "_target_" not in node:
            return items
        unknown = [key for key in node if str(key).startswith("_") and key not in _MARKS]
        if unknown:
            raise ConfigError(
                f"{path.lstrip('.')}: only {listed(_MARKS)} are known, not {listed(unknown)}", code="key-unknown"
            )
        target = locate(node["_target_"]) if allow is None else locate_fenced(node["_target_"], allow)
        arguments = {key: value for key, value in items.items() if key not in _MARKS}
        if allow is not None and _inside(target.__module__, "visionkit"):
            for key, why in _NOT_FROM_FILES.items():
                if isinstance(arguments.get(key), str):
                    where = f"{path}.{key}".lstrip(".")
                    raise CheckpointError(
                        f"{where}: a checkpoint may not give this argument, which {why}", code="checkpoint-refused"
                    )
        return _Call(target, bool(node.get("_partial_", False)), arguments)
    if isinstance(node, list | tuple):
        return [_looked_up(value, f"{path}[{i}]", allow) for i, value in enumerate(node)]
    return node


def _made(node: Any) -> Any:
    if isinstance(node, _Call):
        return _called(node)
    if isinstance(node, dict):
        return {key: _made(value) for key, value in node.items()}
    return [_made(value) for value in node] if isinstance(node, list) else node


def _called(call: _Call, args: Sequence[Any] = (), kwargs: Mapping[str, Any] = types.MappingProxyType({})) -> Any:
    arguments = {key: _made(value) for key, value in call.arguments.items() if key not in kwargs} | dict(kwargs)
    return functools.partial(call.target, *args, **arguments) if call.partial else call.target(*args, **arguments)


def _targets(node: Any, path: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield path, node
        for key, value in node.items():
            yield from _targets(value, f"{path}.{key}" if path else str(key))
    elif isinstance(node, list | tuple):
        for i, value in enumerate(node):
            yield from _targets(value, f"{path}[{i}]")


def _argument_faults(target: Callable[..., Any], mapping: Mapping[str, Any], path: str) -> list[CodedLine]:
    known = parameters(target)
    name = getattr(target, "__name__", str(target))
    given = {key: value for key, value in mapping.items() if key not in _MARKS and not key.startswith("_")}
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values())
    keywords = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    by_name = [key for key, parameter in known.items() if parameter.kind in keywords]
    needed = [key for key in by_name if known[key].default is inspect.Parameter.empty]
    is_partial = mapping.get("_partial_", False)
    faults: list[CodedLine] = []
    for key in given:
        if key not in by_name and not takes_any:
            own = [one for one in by_name if not (is_partial and one in needed)]
            hint = did_you_mean(key, own) or f"; it has {listed(own, 20)}"
            faults.append(CodedLine(f"{path}.{key}: {name} has no argument '{key}'{hint}", "key-unknown"))
    hints = _hints(target)
    for key in by_name:
        if key in given and not _fits(given[key], hints.get(key, Any)):
            faults.append(CodedLine(f"{path}.{key}={given[key]}: {name} wants {_in_words(hints[key])}", "value-unfit"))
        if key in needed and key not in given and not is_partial:
            faults.append(CodedLine(f"{path}: {name} needs the argument '{key}'; give {path}.{key}=…", "value-missing"))
    return faults


def _hints(target: Callable[..., Any]) -> Mapping[str, Any]:
    """Return the type hints of a callable's parameters, or none where they cannot be read."""
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return get_type_hints(function)
    except Exception:
        return {}


def _fits(value: Any, hint: Any) -> bool:
    """Does a plain number, text or truth value fit a hint? Anything else is left to the target."""
    kinds = _kinds(hint)
    if type(value) not in _SCALARS or not all(kind in (*_SCALARS, type(None)) for kind in kinds):
        return True
    return type(value) in kinds or (type(value) is int and float in kinds)


def _kinds(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def _in_words(hint: Any) -> str:
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text", type(None): "null"}
    return " or ".join(words[kind] for kind in _kinds(hint))


def _inside(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")
