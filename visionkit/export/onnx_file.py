"""ONNX files: one file each, written by torch's exporter and run by onnxruntime."""

from __future__ import annotations

import importlib
import logging
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import ExportedProgram

from visionkit.errors import CheckpointError, ConfigError, RunError, printable
from visionkit.export.card import KEY, Card, Unfit, read_card
from visionkit.export.model import ExportedModel, Run
from visionkit.finishing import READS

_MEND = "export the model again"
_MOST_BYTES = 2 << 30
"""What a protobuf holds."""


def needed(name: str) -> ModuleType:
    """Import a package of the extra `export`.

    Raises:
        ConfigError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError:
        raise ConfigError(
            f'ONNX needs {name}, which is not installed: pip install "visionkit[export]"', code="package-missing"
        ) from None


def write_onnx(followed: ExportedProgram, card: Card, file: Path) -> None:
    """Write a program with its card.

    Raises:
        RunError: an operation has no counterpart in ONNX.
        ConfigError: a package is not installed.
    """
    for package in ("onnx", "onnxscript", "onnxruntime"):
        needed(package)
    from visionkit.export.onnx_operators import translations

    names = [f"{name}.{key}" for name, head in card.heads.items() for key in READS[head.finishing.kind]]
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(action="ignore"):
            made: Any = torch.onnx.export(
                followed,
                (),
                dynamo=True,
                external_data=False,
                input_names=["images", "sizes"],
                output_names=names,
                custom_translation_table=translations(),
                verbose=False,
            )
    except Exception as error:  # whatever torch's exporter meets
        reason = (str(error.__cause__ or error).strip().splitlines() or [""])[0][:300]
        raise RunError(f"the model cannot be written as ONNX ({reason})", code="export-failed") from error
    finally:
        logger.setLevel(level)
    model = made.model
    for node in model.graph.all_nodes():
        node.metadata_props.clear()  # tells folders of whoever exports
    model.metadata_props[KEY] = card.text()
    model.producer_name, model.doc_string = "visionkit", None
    made.save(file, external_data=False)
    if card.precision == "fp16":
        from visionkit.export.half import halved

        file.write_bytes(halved(needed("onnx").load(file)).SerializeToString())


def load_onnx(file: Path, device: torch.device) -> ExportedModel:
    """Open an ONNX file that `write_onnx` wrote. It is data: no code runs from it, and it is read alone.

    Raises:
        CheckpointError: it is damaged, refers to other files, or was not exported by visionkit.
        ConfigError: a package is not installed, or onnxruntime has nothing for the device.
    """
    onnx, runtime = needed("onnx"), needed("onnxruntime")
    providers = _providers(device)
    try:
        if file.stat().st_size > _MOST_BYTES:
            raise CheckpointError(
                f"{file}: more than 2 GiB, which no ONNX file of visionkit has; {_MEND}", code="checkpoint-damaged"
            )
        content = file.read_bytes()
        proto = onnx.load_model_from_string(content)
    except OSError as error:
        raise CheckpointError(f"{file}: not readable ({error.strerror})", code="checkpoint-damaged") from None
    except CheckpointError:
        raise
    except Exception:  # a DecodeError of protobuf's, which tells nothing
        raise CheckpointError(f"{file}: damaged, or no ONNX file; {_MEND}", code="checkpoint-damaged") from None
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in _tensors(proto)):
        raise CheckpointError(
            f"{file}: refers to data in other files, which is refused; {_MEND}", code="checkpoint-refused"
        )
    texts = [one.value for one in proto.metadata_props if one.key == KEY]
    if len(texts) != 1:
        raise CheckpointError(
            f"{file}: was not exported by visionkit (no metadata '{KEY}'); run it by onnxruntime",
            code="checkpoint-version",
        )
    try:
        card = read_card(texts[0])
    except Unfit as fault:
        raise CheckpointError(f"{file}: {fault}; {_MEND}", code="checkpoint-damaged") from None
    del proto
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = torch.get_num_threads()
    try:
        session = runtime.InferenceSession(content, options, providers=providers)
    except Exception as error:  # of a dozen kinds, which onnxruntime does not tell apart
        reason = (str(error).strip().splitlines() or [""])[0][:200]
        raise CheckpointError(
            printable(f"{file}: onnxruntime cannot run it ({reason}); {_MEND}"), code="exported-model-failed"
        ) from None
    names = [f"{name}.{key}" for name, head in card.heads.items() for key in READS[head.finishing.kind]]
    lacking = sorted(set(names) - {one.name for one in session.get_outputs()})
    if lacking or {one.name for one in session.get_inputs()} != {"images", "sizes"}:
        raise CheckpointError(
            printable(f"{file}: lacks {', '.join(lacking[:3]) or 'its inputs'}; {_MEND}"), code="checkpoint-damaged"
        )
    return ExportedModel(card, _runner(session, names, str(file)), torch.device("cpu"), str(file))


def has_cuda() -> bool:
    """Whether the onnxruntime that is installed can use a CUDA device."""
    return "CUDAExecutionProvider" in needed("onnxruntime").get_available_providers()


def _providers(device: torch.device) -> list[Any]:
    if device.type == "cpu":
        return ["CPUExecutionProvider"]
    if device.type == "cuda" and has_cuda():
        return [("CUDAExecutionProvider", {"device_id": device.index or 0}), "CPUExecutionProvider"]
    mend = "pip install onnxruntime-gpu in place of onnxruntime, or use device=cpu"
    raise ConfigError(
        f"device={device}: the onnxruntime that is installed has nothing for it; {mend}", code="device-missing"
    )


def _runner(session: Any, names: list[str], source: str) -> Run:
    def run(images: Tensor, sizes: Tensor) -> Mapping[str, Tensor]:
        given = {"images": np.ascontiguousarray(images.cpu().numpy()), "sizes": sizes.cpu().numpy()}
        try:
            values = session.run(names, given)
        except Exception as error:
            reason = (str(error).strip().splitlines() or [""])[0][:300]
            raise RunError(
                printable(f"{source}: onnxruntime failed ({reason})"), code="exported-model-failed"
            ) from error
        return {name: torch.from_numpy(value) for name, value in zip(names, values, strict=True)}

    return run


def _tensors(proto: Any) -> Iterator[Any]:
    """Every tensor of a model: those of its graph, of graphs inside it, and of its functions."""
    yield from _of_graph(proto.graph)
    for function in proto.functions:
        yield from _of_nodes(function.node)
    for training in proto.training_info:
        yield from _of_graph(training.initialization)
        yield from _of_graph(training.algorithm)


def _of_graph(graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _of_nodes(graph.node)


def _of_nodes(nodes: Iterable[Any]) -> Iterator[Any]:
    for node in nodes:
        for attribute in node.attribute:
            yield attribute.t
            yield from attribute.tensors
            for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
                yield from (sparse.values, sparse.indices)
            if attribute.HasField("g"):
                yield from _of_graph(attribute.g)
            for graph in attribute.graphs:
                yield from _of_graph(graph)
