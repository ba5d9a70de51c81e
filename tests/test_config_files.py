"""What a run writes is read back; hostile files are in tests/security."""

from __future__ import annotations

import pytest
import yaml
from omegaconf import OmegaConf

from visionkit.config import compose
from visionkit.config_files import read_config, read_trained_config
from visionkit.errors import CheckpointError

RUNS = (
    ("task=detect",),
    ("task=multitask", "augment=multitask_strong", "optim=muon"),
    ("task=semantic", "data=camvid", "data.root=/a b/'c'", "name='Läufe 1'"),
    ("task=detect", "data=[bccd, coco128]", "data.proportions={bccd: 0.5}"),
    ("task=classify", "data=csv", "data.root=/x", "data.classes=['1e3', 'yes', '2020-01-01', '0x1']"),
)


@pytest.fixture
def file(tmp_path):
    return tmp_path / "config.yaml"


@pytest.mark.parametrize("typed", RUNS, ids=" ".join)
def test_what_a_run_writes_is_read_back(typed, file):
    cfg = compose("train", typed)
    file.write_text(OmegaConf.to_yaml(cfg, resolve=True), encoding="utf-8")
    plain = OmegaConf.to_container(cfg, resolve=True)
    assert read_config(file) == plain
    assert OmegaConf.to_container(read_trained_config(file)) == plain


def test_keys_of_another_version_are_left_out(file):
    values = yaml.safe_load(OmegaConf.to_yaml(compose("train", ["task=detect"]), resolve=True))
    del values["engine"]["log_steps"]  # nobody who evaluates asks for it
    file.write_text(yaml.safe_dump({**values, "hue": 1, "engine": {**values["engine"], "warp": 9}}))
    read = read_trained_config(file)
    assert "hue" not in read
    assert "warp" not in read.engine
    assert read.engine.select == values["engine"]["select"]


@pytest.mark.parametrize("key", ["name", "data", "engine"])
def test_what_an_evaluation_needs_is_there(key, file):
    values = yaml.safe_load(OmegaConf.to_yaml(compose("train", ["task=detect"]), resolve=True))
    file.write_text(yaml.safe_dump({name: value for name, value in values.items() if name != key}))
    with pytest.raises(CheckpointError, match=rf"{key}.*: a value is missing.*; use the version that wrote it"):
        read_trained_config(file)


def test_faults_name_the_file_and_the_key(file):
    for text, said in (
        ("", r"damaged \(no mapping\)"),
        ("- a", r"damaged \(no mapping\)"),
        ("a: {b: [1, 2020-01-01]}", r"a\.b\.1: is a date, no plain value"),
        ("a: {b: '${x}'}", r"a\.b: holds an interpolation"),
        ("a: {1.5: b}", r"a\.1\.5: is no name of a key"),
        ("a: !!set {b}", "a: is a set, no plain value"),
    ):
        file.write_text(text)
        with pytest.raises(CheckpointError, match=f"config.yaml: {said}.*; .*use another checkpoint of the run"):
            read_config(file)
    with pytest.raises(CheckpointError, match=r"gone\.yaml: not readable \(No such file or directory\)"):
        read_config(file.with_name("gone.yaml"))
