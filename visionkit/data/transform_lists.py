"""Lists of transforms as a configuration writes them, built from one library: every fault is found and named."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from visionkit.errors import CodedLine, ConfigError, did_you_mean
from visionkit.preprocess import fill_value

NORMALISES = "preprocess.mean and preprocess.std normalise"
"""Why a transform that changes the range or the dtype of an image is refused."""


@dataclass(frozen=True)
class Library:
    """What a list may name.

    Attributes:
        name: of the library.
        known: the transforms by name.
        refused: why a transform of the library cannot be used here, by name.
        preset: arguments that are always what is said here, and cannot be given.
        settled: makes the arguments, as a configuration writes them, those that a constructor takes.
    """

    name: str
    known: Mapping[str, type]
    refused: Mapping[str, str]
    preset: Mapping[str, str]
    settled: Callable[[dict[str, Any]], dict[str, Any]] = dict

    def built(self, transforms: Any, where: str, faults: list[CodedLine]) -> list[Any]:
        """Build the transforms of a list of {name: arguments or None}, and append a line to `faults` for every fault.

        A group of transforms takes a list in place of its arguments, too: {OneOf: [{Blur: {}}, …]}.
        """
        if not isinstance(transforms, Sequence) or isinstance(transforms, str):
            faults.append(
                CodedLine(f"{where}: a list of {{Name: arguments}} is wanted, not {transforms!r}", "value-unfit")
            )
            return []
        built = []
        for number, entry in enumerate(transforms):
            place = f"{where}[{number}]"
            if not isinstance(entry, Mapping) or len(entry) != 1:
                faults.append(CodedLine(f"{place}: one {{Name: arguments}} is wanted, not {entry!r}", "value-unfit"))
                continue
            name, arguments = next(iter(entry.items()))
            if isinstance(arguments, Sequence) and not isinstance(arguments, str) and self._is_group(name):
                arguments = {"transforms": arguments}
            if arguments is not None and not isinstance(arguments, Mapping):
                faults.append(
                    CodedLine(f"{place}: {name}: arguments by name are wanted, not {arguments!r}", "value-unfit")
                )
                continue
            before = len(faults)
            transform = self._transform(str(name), dict(arguments or {}), place, faults)
            if len(faults) == before:
                built.append(transform)
        return built

    def _transform(self, name: str, arguments: dict[str, Any], place: str, faults: list[CodedLine]) -> Any:
        """Build one transform, or note its faults and return None."""
        if name in self.refused:
            faults.append(CodedLine(f"{place}: {name} is refused: {self.refused[name]}", "augmentation-unfit"))
            return None
        if name not in self.known:
            told = f"{place}: {self.name} has no transform '{name}'{did_you_mean(name, self.known)}"
            faults.append(CodedLine(told, "choice-unknown"))
            return None
        parameters = list(inspect.signature(self.known[name]).parameters)
        before = len(faults)
        for key in arguments:
            if key in self.preset:
                told = f"{place}: {name}.{key} is always {self.preset[key]}; leave it out"
                faults.append(CodedLine(told, "key-not-taken"))
            elif key not in parameters:
                told = f"{place}: {name} has no argument '{key}'{did_you_mean(key, parameters)}"
                faults.append(CodedLine(told, "key-unknown"))
        if self._is_group(name):
            arguments["transforms"] = self.built(arguments.get("transforms", []), f"{place}.{name}", faults)
        if len(faults) > before:
            return None
        try:
            return self.known[name](**self.settled(arguments))
        except (TypeError, ValueError) as error:
            faults.append(CodedLine(f"{place}: {name}: {one_line(error)}", "value-unfit"))
            return None

    def _is_group(self, name: object) -> bool:
        kind = self.known.get(str(name))
        return kind is not None and "transforms" in inspect.signature(kind).parameters


def scaled_fill(arguments: dict[str, Any], dtype: np.dtype) -> dict[str, Any]:
    """Return the arguments with `fill`, grey values from 0 to 255, as they are in images of `dtype`."""
    fill = arguments.get("fill")
    if isinstance(fill, int | float):
        return {**arguments, "fill": fill_value(fill, dtype)}
    if isinstance(fill, list) and all(isinstance(grey, int | float) for grey in fill):
        return {**arguments, "fill": [fill_value(grey, dtype) for grey in fill]}
    return dict(arguments)


def check_kind(before: np.ndarray, after: np.ndarray, names: Sequence[str]) -> None:
    """Raise a ConfigError unless both (H, W, C) images have the same number of channels and the same dtype."""
    if after.dtype != before.dtype or after.ndim != 3 or after.shape[2] != before.shape[2]:
        raise ConfigError(
            f"augment.transforms ({', '.join(names)}): an image {before.dtype} with {before.shape[2]} channels became "
            f"{after.shape} {after.dtype}; normalising is preprocess's",
            code="augmentation-unfit",
        )


def one_line(error: Exception) -> str:
    """Bring the many lines of a validator into one, without its headline and its links."""
    lines = [line.strip() for line in str(error).splitlines()]
    kept = [line for line in lines if line and not line.startswith("For further") and "validation error" not in line]
    return " ".join(kept)
