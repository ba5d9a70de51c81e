"""docs/deployment.md: what it shows runs as it stands, and gives what visionkit gives."""

from __future__ import annotations

import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PAGE = Path(__file__).parents[2] / "docs" / "deployment.md"


@pytest.fixture
def blocks():
    if not PAGE.exists():
        pytest.skip("docs/ is not part of the installed package")
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)


def run(code):
    told = io.StringIO()
    with redirect_stdout(told):
        exec(compile(code, "deployment.md", "exec"), {})
    return told.getvalue()


def test_the_examples_run_and_agree(blocks, files, opened, photographed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for kind, name in (("onnx", "detector.onnx"), ("torch", "detector.pt2")):
        Path(name).symlink_to(files[kind])
    image = photographed()["photograph 3"]
    Image.fromarray(image).save("photograph.jpg", format="PNG")
    alone = next(code for code in blocks if "InferenceSession" in code)
    lines = run(alone).splitlines()
    (wanted,) = opened["onnx"].predict("photograph.jpg")
    wanted = wanted["detection"].above(0.3)
    assert len(lines) == len(wanted) > 0
    for line, box, score in zip(lines, wanted.boxes, wanted.scores, strict=True):
        shown = [float(number) for number in re.findall(r"-?\d+\.\d+", line)]
        assert shown[0] == pytest.approx(score, abs=1e-3)
        np.testing.assert_allclose(np.clip(shown[1:], 0, [400, 300] * 2), box, atol=0.06)
    other = next(code for code in blocks if "torch.export.load" in code)
    assert "'semantic.logits': (1, 4, 32, 32)" in run(other.replace("640", "128"))
    with_visionkit = next(code for code in blocks if "visionkit.load" in code)
    assert run(with_visionkit).startswith("[[")
