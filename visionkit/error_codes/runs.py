"""Codes of checkpoints and weights, of runs, of prediction and of export."""

from __future__ import annotations

from collections.abc import Mapping

from visionkit.error_codes.code import Code

CHECKPOINTS: Mapping[str, Code] = {
    "checkpoint-missing": Code(
        "There is no checkpoint, run or exported file at the place that was named.",
        "give the folder of a run or of a checkpoint in it, or an exported .onnx or .pt2 file",
    ),
    "checkpoint-damaged": Code(
        "A file of a checkpoint, or an exported file, is not what was written: cut off, changed or mixed up.",
        "copy it again from where it came, or use another checkpoint of the run",
    ),
    "checkpoint-version": Code(
        "Another version of visionkit wrote the checkpoint, and this one does not know its form or parts.",
        "update visionkit, or use the version that wrote it",
    ),
    "checkpoint-refused": Code(
        "A checkpoint asks for what could harm whoever opens it: code outside visionkit, or data outside the file.",
        "use files that visionkit wrote; of your own parts, name the package with allow=[PACKAGE]",
    ),
    "checkpoint-not-written": Code(
        "A checkpoint could not be saved; those that were there before are untouched.",
        "make room or see to the permissions, then go on with resume=RUN",
    ),
    "weights-missing": Code(
        "The weights are neither a file, nor a run, nor a published name.",
        "give the path of a file or run, a published name (visionkit list weights), or weights=none",
    ),
    "weights-unreadable": Code(
        "The file of weights is damaged, or holds something else than a dict of tensors.",
        "save it anew with torch.save(model.state_dict(), FILE), or as .safetensors",
    ),
    "weights-do-not-fit": Code(
        "The weights are of another network.",
        "choose the backbone (and model.width) that the weights were made with, or other weights",
    ),
    "download-failed": Code(
        "Published weights could not be fetched.",
        "try again with a connection, or fetch the file elsewhere and give its path as weights=FILE",
    ),
}

RUNS: Mapping[str, Code] = {
    "place-taken": Code(
        "Something is already where the output should go, and would be lost.",
        "give another place: nothing of others is overwritten (resume=auto continues a run)",
    ),
    "not-writable": Code(
        "The output cannot be written there.",
        "see that the disk has room and the folder may be written, or give another place",
    ),
    "port-taken": Code(
        "Another program listens at the port.",
        "give another port, or port=0 for one that is free",
    ),
    "run-locked": Code(
        "Another process is training in this folder.",
        "wait for it or end it, or give a run_dir of its own",
    ),
    "run-changed": Code(
        "The run to be resumed was another one: its settings, data or number of processes differ.",
        "resume it as it was, start a new run, or allow the change with resume_allow=[…]",
    ),
    "link-refused": Code(
        "A link in the run folder leads out of it.",
        "put the files themselves in place of the link",
    ),
    "out-of-memory": Code(
        "The memory of the device or of the machine was used up.",
        "lower data.batch_size (data.batch_size=auto finds what fits) or image_size, or see what else uses the memory",
    ),
    "shared-memory-small": Code(
        "The memory through which loading processes hand over batches (/dev/shm) is too small.",
        "docker run --shm-size=8g (or --ipc=host), or data.workers=0",
    ),
    "loader-died": Code(
        "A process that loads data was ended from outside, most often since memory was used up.",
        "lower data.workers; data.workers=0 shows what it died of",
    ),
    "loader-silent": Code(
        "A process that loads data gave nothing for longer than engine.timeout.",
        "see that the disk or network drive of the images answers, or raise engine.timeout",
    ),
    "batch-too-small": Code(
        "A BatchNorm cannot take the variance of a single value.",
        "raise data.batch_size or image_size, or set model.norm=frozen",
    ),
    "loss-not-finite": Code(
        "The loss or its gradient became NaN or infinite; the step was not taken.",
        "lower optim.lr, lengthen the warm-up or set engine.precision=fp32, then go on with resume=RUN",
    ),
    "process-lost": Code(
        "The processes of a run did not meet, or lost each other.",
        "see that every process was started and that the machines reach each other; then resume=RUN",
    ),
    "run-failed": Code(
        "A run that had begun could not go on.",
        "mend what the line says, then go on with resume=RUN",
    ),
    "unexpected": Code(
        "Something failed that the toolkit does not know: mostly a fault of its own or of a package.",
        "please report it, with what debug.traceback=true shows",
    ),
}

PREDICTION: Mapping[str, Code] = {
    "source-missing": Code(
        "The images, the video or the file that was named is not there, or holds nothing that can be read.",
        "give a file, a folder or a pattern such as source='photos/*.jpg', in quotes",
    ),
    "image-form": Code(
        "What was given is no image of the model's kind.",
        "give a path, a PIL image, an (H, W, 3) uint8 RGB array or a (3, H, W) tensor",
    ),
    "output-unfit": Code(
        "The output is named by what cannot hold it: a folder for a file, a file for a folder, another ending.",
        "give out= a name of the kind that the line asks for",
    ),
    "video-unusable": Code(
        "A video cannot be read or written on this machine.",
        "save it again as MP4 (H.264), or cut it into frames",
    ),
    "features-unusable": Code(
        "A file or set of feature vectors is not one that the probe can learn from.",
        "make it again with predict save=[features], of one model and one level",
    ),
}

EXPORT: Mapping[str, Code] = {
    "export-unsupported": Code(
        "A part of the model cannot be written as an exported file.",
        "leave the part out, or use the checkpoint itself",
    ),
    "export-failed": Code(
        "torch could not write the model in this format.",
        "try the other format (format=onnx or format=torch), and report it with debug.traceback=true",
    ),
    "export-disagrees": Code(
        "The exported file gave other results than the checkpoint, and was not kept.",
        "export with precision=fp32 or the other format, and report it with debug.traceback=true",
    ),
    "exported-model-failed": Code(
        "onnxruntime or torch failed while it ran an exported file.",
        "try device=cpu, and export the file again with the versions that are installed",
    ),
}
