"""Documents of a checkpoint that are false, and what leads out of its folder or that of a run."""

from __future__ import annotations

import hashlib
import json
import os
import shutil

import pytest
from safetensors.torch import load_file, save

import visionkit
from visionkit import cli
from visionkit.engine import judging
from visionkit.engine.checkpoint import open_checkpoint
from visionkit.engine.run_links import refuse_links_out
from visionkit.engine.tracking import Tracker
from visionkit.errors import CheckpointError


@pytest.mark.parametrize(
    "text",
    [b"[" * 10**6, b'{"a":' * 10**6, b'{"backbone": ' + b"1" * 5000 + b"}", b"{}", b"[]", b"null", b"\xff",
     b'{"backbone": NaN}', json.dumps({"a": [[[]]] * 10**5}).encode()],
    ids=["deep", "deep_objects", "long_number", "nothing", "list", "null", "bytes", "nan", "wide"],
)  # fmt: skip
@pytest.mark.parametrize("name", ["model.json", "state.json"])
def test_a_false_document_is_refused(name, text, checkpoint, put, bounded):
    put(checkpoint, name, text)
    with bounded(), pytest.raises(CheckpointError, match=name.replace(".", r"\.")) as error:
        visionkit.load(checkpoint, "cpu")
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("name", ["/tmp/owned", "../owned", "a/b", "..", "", "\x1b]0;x\x07", "a\nb", "C:\\x"])
def test_the_name_of_a_head_is_no_path(name, checkpoint, put):
    """Results are written below it."""
    description = json.loads((checkpoint / "model.json").read_text())
    (head,) = description["heads"].values()
    put(checkpoint, "model.json", {**description, "heads": {name: head}})
    weights = load_file(checkpoint / "ema.safetensors")
    renamed = {key.replace("heads.detection", f"heads.{name}"): value for key, value in weights.items()}
    put(checkpoint, "ema.safetensors", save(renamed))
    with pytest.raises(CheckpointError, match="a name is made of letters, digits, _ and -") as error:
        visionkit.load(checkpoint, "cpu")
    assert str(error.value).isprintable()


@pytest.mark.parametrize(
    "change",
    [
        {"preprocess": {"image_size": -1}}, {"preprocess": {"image_size": [0, 0]}}, {"preprocess": {"mean": "x"}},
        {"preprocess": {"fill": {"a": 1}}}, {"backbone": {"size": 10**400}}, {"backbone": {"width": -3.0}},
        {"backbone": {"width": float("nan")}}, {"neck": {"channels": "a lot"}}, {"neck": {"channels": -1}},
        {"neck": {"depth": 1e9}},
    ],
)  # fmt: skip
def test_arguments_that_no_part_takes_are_refused(change, checkpoint, put):
    description = json.loads((checkpoint / "model.json").read_text())
    ((part, arguments),) = change.items()
    put(checkpoint, "model.json", {**description, part: {**description[part], **arguments}})
    with pytest.raises(CheckpointError):
        visionkit.load(checkpoint, "cpu")


def test_a_class_name_does_nothing_to_a_terminal(checkpoint, here, capsys, monkeypatch):
    """The numbers of single classes, such as those of a semantic head, are called by the names in the checkpoint."""
    scored = judging.scored

    def with_number_of_class(*given, **named):
        result = scored(*given, **named)
        result.numbers["detection/AP/\x1b]0;owned\x07"] = 0.5
        return result

    monkeypatch.setattr(judging, "scored", with_number_of_class)
    assert cli.main(["evaluate", f"checkpoint={checkpoint}", "device=cpu", "run_dir=out"]) == 0
    output = capsys.readouterr()
    assert "detection/AP/\\x1b]0;owned\\x07" in output.out
    assert "\x1b" not in output.out + output.err


@pytest.mark.parametrize(
    "line", ["[1]", "{}", "x", '{"step": "1"}', '{"step": [' + "[" * 5000, '{"step": NaN, "step": {}}', "\x00", "\xff"]
)
def test_false_lines_of_metrics_are_refused(line, tmp_path):
    (tmp_path / "metrics.jsonl").write_bytes(b'{"step": 1}\n' + line.encode("latin-1") + b"\n")
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl: line 2 is none that a run writes"):
        Tracker(tmp_path, total_steps=2, headline="a/b").begin(1)


# --------------------------------------------------------------------------------------------------- what leads outside
@pytest.mark.parametrize("name", ["../a", "/etc/hostname", "sub/../../a", "..", ".", "a\\..\\b", "\0", "x" * 5000])
def test_a_manifest_stays_in_its_folder(name, checkpoint, put, tmp_path):
    (tmp_path / "a").write_text("x")
    told = {"size": 1, "sha256": hashlib.sha256(b"x").hexdigest()}
    put(checkpoint, "state.json", (checkpoint / "state.json").read_bytes(), more={name: told})
    with pytest.raises(CheckpointError) as error:
        open_checkpoint(checkpoint)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("files", [None, 3, [], "a", {"a": 1}, [["model.json", 1]], {"ema.safetensors": None}])
def test_a_manifest_of_another_kind(files, checkpoint, put):
    put(checkpoint, "state.json", (checkpoint / "state.json").read_bytes(), files=files)
    with pytest.raises(CheckpointError, match="damaged"):
        open_checkpoint(checkpoint)


@pytest.mark.parametrize("name", ["ema.safetensors", "model.json", "state.json", "config.yaml", "training.pt"])
def test_a_link_out_of_a_checkpoint_is_not_followed(name, checkpoint, put, tmp_path):
    content = (checkpoint / name).read_bytes()
    put(checkpoint, name, content)
    (tmp_path / "outside").write_bytes(content)
    (checkpoint / name).unlink()
    (checkpoint / name).symlink_to(tmp_path / "outside")
    with pytest.raises(CheckpointError, match=f"{name}: is a link that leads out of the checkpoint"):
        open_checkpoint(checkpoint)


@pytest.mark.parametrize("target", ["/dev/zero", "pipe"])
@pytest.mark.parametrize("name", ["ema.safetensors", "model.json", "manifest.json"])
def test_no_pipe_or_device_is_read(name, target, checkpoint, bounded):
    (checkpoint / name).unlink()
    if target == "pipe":
        os.mkfifo(checkpoint / name)
    else:
        (checkpoint / name).symlink_to(target)
    with bounded(), pytest.raises(CheckpointError):
        visionkit.load(checkpoint, "cpu")


# --------------------------------------------------------------------------------------- what a resumed run writes into
@pytest.mark.parametrize(
    "name", ["train.log", "config.yaml", "plots/loss.png", "predictions", "checkpoints", "new.txt"]
)
def test_a_resumed_run_does_not_write_through_links(name, run_of_one, resume_refused, tmp_path):
    outside = tmp_path / "outside"
    place = run_of_one / name
    if place.is_dir():
        shutil.move(place, outside)
    else:
        place.unlink(missing_ok=True)
        outside.write_text("kept")
    place.symlink_to(outside)
    assert f"{name}: is a link that leads out of the run folder" in resume_refused()
    assert outside.is_dir() or outside.read_text() == "kept"


def test_a_run_that_never_began_is_not_begun_through_links(train, runs, tmp_path, capsys):
    """What is left of checkpoints is cleared away as a run saves: not in somebody's home."""
    home = tmp_path / "home"
    (home / ".settings").mkdir(parents=True)
    (runs / "run").mkdir()
    (runs / "run" / "status.json").write_text('{"status": "failed"}')
    (runs / "run" / "checkpoints").symlink_to(home)
    assert train("run_dir=run", "resume=auto") == 2
    assert "checkpoints: is a link that leads out of the run folder" in capsys.readouterr().err
    assert (home / ".settings").is_dir()


def test_a_runs_own_links_are_no_fault(finished):
    refuse_links_out(finished)
