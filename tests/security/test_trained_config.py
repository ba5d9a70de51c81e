"""The configuration inside a checkpoint: it runs no code, tells nothing of this machine, and grows no further."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import yaml
from omegaconf import OmegaConf

from visionkit.config_files import read_trained_config
from visionkit.errors import CheckpointError

PAYLOADS = runpy.run_path(str(Path(__file__).parent / "payloads.py"))
Trap, YAML_BOMBS, yaml_code = (PAYLOADS[name] for name in ("Trap", "YAML_BOMBS", "yaml_code"))
TAG = r"config\.yaml: not readable \(could not determine a constructor for the tag"


@pytest.mark.parametrize("code", ["apply", "object", "new", "name", "module"])
def test_the_configuration_runs_no_python(code, marker, checkpoint, put, refused):
    text = f"{(checkpoint / 'config.yaml').read_text()}\nx: {yaml_code(code, marker)}\n"
    if code == "apply":
        yaml.unsafe_load(text)
        marker.rmdir()
    put(checkpoint, "config.yaml", text.encode())
    with pytest.raises(CheckpointError, match=TAG):
        read_trained_config(checkpoint / "config.yaml")
    if code == "apply":
        assert re.search(TAG, refused("evaluate", f"checkpoint={checkpoint}", "device=cpu"))
        # Other data are composed anew, for which the task is read first.
        assert re.search(TAG, refused("evaluate", f"checkpoint={checkpoint}", "device=cpu", "data=shapes"))


@pytest.mark.parametrize("name", YAML_BOMBS)
def test_the_configuration_is_no_bomb(name, checkpoint, put, refused, bounded):
    put(checkpoint, "config.yaml", f"{(checkpoint / 'config.yaml').read_text()}\n{YAML_BOMBS[name]}\n".encode())
    with bounded(), pytest.raises(CheckpointError, match=r"config\.yaml: not readable \("):
        read_trained_config(checkpoint / "config.yaml")
    if name in ("laughs", "merged", "deep_lists"):
        with bounded():
            assert "config.yaml: not readable (" in refused("evaluate", f"checkpoint={checkpoint}", "device=cpu")


@pytest.mark.parametrize("name", ["laughs", "merged"])
def test_a_run_with_a_bomb_is_not_resumed(name, run_of_one, put, resume_refused, bounded):
    last = run_of_one / "checkpoints" / "last"
    put(last, "config.yaml", f"{(last / 'config.yaml').read_text()}\n{YAML_BOMBS[name]}\n".encode())
    with bounded():
        assert "config.yaml: not readable (" in resume_refused()


SECRET = "do-not-tell"
INTERPOLATIONS = {
    "environment": "${oc.env:VISIONKIT_SECRET}",
    "decoded": "${oc.decode:${oc.env:VISIONKIT_SECRET}}",
    "created": "${oc.create:{_target_: os.system}}",
    "own_resolver": "${height_width:${oc.env:VISIONKIT_SECRET}}",
    "registered": "${somebodys:1}",
    "selected": "${oc.select:data.root}",
    "within": "a ${oc.env:VISIONKIT_SECRET} b",
    "endless": "${name}",
    "unclosed": "${",
}


@pytest.mark.parametrize("name", INTERPOLATIONS)
def test_an_interpolation_is_not_filled_in(name, checkpoint, put, refused, here, monkeypatch, marker):
    """What this machine knows would be written into the results, and a resolver of the user's own would run."""
    monkeypatch.setenv("VISIONKIT_SECRET", SECRET)
    OmegaConf.register_new_resolver("somebodys", lambda _: marker.mkdir(), replace=True)
    text = INTERPOLATIONS[name]
    if name == "registered":
        assert OmegaConf.create({"a": text}).a is None
        marker.rmdir()
    config = yaml.safe_load((checkpoint / "config.yaml").read_text())
    try:
        for place in ("name", "weights", "data", "unknown"):
            if place == "data":
                changed = {**config, "data": {**config["data"], "reader": {**config["data"]["reader"], "seed": text}}}
            else:
                changed = {**config, place: text}
            put(checkpoint, "config.yaml", yaml.safe_dump(changed).encode())
            with pytest.raises(CheckpointError, match=r"holds an interpolation \$\{…\}") as error:
                read_trained_config(checkpoint / "config.yaml")
            assert SECRET not in str(error.value)
        if name in ("environment", "registered"):
            assert SECRET not in refused("evaluate", f"checkpoint={checkpoint}", "device=cpu")
    finally:
        OmegaConf.clear_resolver("somebodys")


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("name", "../../outside", "is no name of a folder"), ("name", "/tmp/outside", "is no name of a folder"),
        ("name", "..", "is no name of a folder"), ("name", "", "is no name of a folder"),
        ("name", "a\x1b[2J", "is no name of a folder"), ("name", ["a"], "name"), ("name", None, "name"),
        ("data", 3, "data"), ("data", {}, "a value is missing"), ("engine", [], "engine"), ("engine", None, "engine"),
        ("seed", "2020-01-01", "seed"),
    ],
)  # fmt: skip
def test_a_configuration_of_wrong_values_is_refused(key, value, said, finished, tmp_path):
    config = yaml.safe_load((finished / "config.yaml").read_text())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**config, key: value}))
    with pytest.raises(CheckpointError, match=said) as error:
        read_trained_config(tmp_path / "config.yaml")
    assert str(error.value).isprintable()


def test_the_name_in_a_configuration_leads_nowhere(checkpoint, put, refused):
    config = yaml.safe_load((checkpoint / "config.yaml").read_text())
    put(checkpoint, "config.yaml", yaml.safe_dump({**config, "name": "../../outside"}).encode())
    assert "name=../../outside: is no name of a folder" in refused("evaluate", f"checkpoint={checkpoint}", "device=cpu")
