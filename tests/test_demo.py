"""The demo: what it says of images, and its page as a browser and a client meet it."""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from visionkit import cli
from visionkit.demo.fence import POLICY
from visionkit.demo.findings import findings_page
from visionkit.demo.looking import Looker, forget
from visionkit.demo.run import demo_run
from visionkit.errors import DataError, UserError
from visionkit.manner import Manner
from visionkit.predictions import Classification, Detections, Localization, PanopticMap, Segment, SemanticMap
from visionkit.structures import Decoding

ROOT = Path(__file__).resolve().parents[1]
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
NAMES = ("cat", "<b>dog</b>")


class TwoBoxes:
    """In the place of a `Predictor`: a cat of 0.9 and a dog of 0.4, a map of dogs right and cats left."""

    decoding = Decoding()
    is_busy = False

    def __init__(self) -> None:
        head = SimpleNamespace(finishing=SimpleNamespace(kind="detections"))
        preprocess = SimpleNamespace(canvas=(64, 96))
        self.model = SimpleNamespace(preprocess=preprocess, heads={"detection": head})
        self.classes = {"detection": NAMES, "semantic": NAMES}
        self.manners: list[Manner] = []

    def stream(self, images, manner):
        assert not self.is_busy
        self.is_busy = True
        time.sleep(0.01)
        self.manners.append(manner)
        (image,) = images
        boxes = np.array([[2, 4, 12, 24], [5, 5, 8, 9]], np.float32)
        found = Detections(boxes, np.array([0.9, 0.4], np.float32), np.array([0, 1]), NAMES)
        half = np.zeros(image.shape[:2], np.uint8)
        half[:, image.shape[1] // 2 :] = 1
        self.is_busy = False
        yield SimpleNamespace(image=image, predictions={"detection": found, "semantic": SemanticMap(half, None, NAMES)})


@pytest.fixture
def looker(tmp_path: Path) -> Looker:
    workspace = tmp_path / "work"
    workspace.mkdir()
    return Looker(TwoBoxes(), workspace, tile=None, max_megapixels=0.01)


def photograph(folder: Path, name: str = "photo.png", size: tuple[int, int] = (40, 60)) -> Path:
    file = folder / name
    Image.fromarray(np.full((*size, 3), 90, np.uint8)).save(file)
    return file


# ------------------------------------------------------------------------------------------------------ without a page
def test_what_is_shown_is_what_is_written_down(looker: Looker, tmp_path: Path) -> None:
    look = looker.look(photograph(tmp_path), "my photo.png")
    view = looker.view(look, heads=["detection", "semantic"], classes=[], score=0.5)
    assert [file.name for file in view.files] == ["predictions.json", "predictions.csv", "photo-semantic.png"]
    written = json.loads(view.files[0].read_text())
    row = {"image_id": 1, "category_id": 1, "bbox": [2, 4, 10, 20], "score": pytest.approx(0.9)}
    assert written == {"detection": [{**row, "file_name": "photo.png"}], "semantic": []}
    assert np.asarray(Image.open(view.files[2]))[0].tolist() == [0] * 30 + [1] * 30
    assert Image.open(view.picture).size == (60, 40)
    assert "1 object<" in view.found
    both = looker.view(look, heads=["detection"], classes=[], score=0.0)
    assert [row["category_id"] for row in json.loads(both.files[0].read_text())] == [1, 2]
    assert sorted(file.name for file in look.folder.iterdir()) == ["photo-drawn.jpg", "predictions.csv",
                                                                    "predictions.json"]  # fmt: skip
    dogs = looker.view(look, heads=["detection"], classes=["<b>dog</b>"], score=0.0)
    assert [row["category_id"] for row in json.loads(dogs.files[0].read_text())] == [2]
    nothing = looker.view(look, heads=[], classes=[], score=0.0)
    assert nothing.files == ()
    forget(look)
    assert list(looker.workspace.iterdir()) == []


def test_large_drawings_are_shrunk_for_the_page(looker: Looker, tmp_path: Path) -> None:
    looker.max_megapixels = 1
    look = looker.look(photograph(tmp_path, size=(20, 4096)), "wide.png")
    assert Image.open(looker.view(look, heads=["detection"], classes=[], score=0).picture).size == (2048, 10)


def test_bad_images_are_told_by_their_own_name(looker: Looker, tmp_path: Path) -> None:
    file = tmp_path / "stored.jpg"
    file.write_bytes(b"hello")
    with pytest.raises(DataError, match=r"^mine\.jpg: not an image; save it again as JPEG or PNG$"):
        looker.look(file, "mine.jpg")
    with pytest.raises(DataError, match=r"^big\.png: 200 × 100 are 0\.02 megapixels, and 0\.01 are allowed"):
        looker.look(photograph(tmp_path, size=(100, 200)), "big.png")
    assert list(looker.workspace.iterdir()) == []


def test_tiles_and_views_are_asked_for(looker: Looker, tmp_path: Path) -> None:
    file = photograph(tmp_path)
    looker.look(file, "a.png")
    looker.look(file, "a.png", tiles=True, views=True)
    assert [(one.tile, one.tta) for one in looker.predictor.manners] == [(None, False), (96, True)]


def test_tiles_are_offered_only_where_a_head_takes_them(tmp_path: Path) -> None:
    predictor = TwoBoxes()
    predictor.model.heads["detection"].finishing.kind = "classification"
    assert not Looker(predictor, tmp_path, tile=None, max_megapixels=1).tells_of_parts
    with pytest.raises(UserError, match="tile=64: the model's answers"):
        Looker(predictor, tmp_path, tile=64, max_megapixels=1)


def test_the_model_looks_at_one_image_at_a_time(looker: Looker, tmp_path: Path) -> None:
    file, done = photograph(tmp_path), []
    threads = [threading.Thread(target=lambda: done.append(looker.look(file, "a.png"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 8


def test_findings_tell_of_every_kind_and_escape_names() -> None:
    scores = np.array([0.25, 0.75], np.float32)
    boxes = np.array([[0, 0, 1, 1], [10, 20, 40, 60]], np.float32)
    ids = np.array([[1, 1, 2, 0]], np.int32)
    segments = (Segment(1, 0, True, 0.5, 2), Segment(2, 1, False, 1.0, 1))
    found = {
        "classification": Classification(scores),
        "localization": Localization(scores, boxes),
        "detection": Detections(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)),
        "semantic": SemanticMap(np.array([[1, 1, 1, 0, 255]], np.uint8)),
        "panoptic": PanopticMap(ids, segments),
        "many": Detections(np.zeros((150, 4), np.float32), np.ones(150, np.float32), np.zeros(150, np.int64)),
    }
    page = findings_page(found, dict.fromkeys(found, NAMES))
    assert "<b>" not in page
    found_parts = re.findall(r"<h3>(\w+)(.*?)</section>", page, re.DOTALL)
    parts = {head: " ".join(re.sub(r"<[^>]*>", " ", text).split()) for head, text in found_parts}
    dog, columns = "&lt;b&gt;dog&lt;/b&gt;", "class score left top width height"
    assert parts["classification"] == f"{dog} 0.75 cat 0.25"
    assert parts["localization"] == f"{dog} 0.75 cat 0.25 {columns} {dog} 0.75 10 20 30 40"
    assert parts["detection"] == "no objects"
    assert parts["semantic"] == f"share of the image {dog} 60.0 % cat 20.0 %"
    assert parts["panoptic"] == f"2 segments, share of the image cat 0.50 50.0 % {dog} 25.0 %"
    assert parts["many"].startswith(f"150 objects, the first 100 of them here {columns} cat 1.00 0 0 0 0")
    assert parts["many"].count("1.00") == 100
    assert findings_page({}, {}) == "<p>Choose a head.</p>"


# ------------------------------------------------------------------------------------------------------ what is refused
def config(**changed: object) -> SimpleNamespace:
    usual = {"checkpoint": "nowhere", "allow": [], "port": 0, "device": "cpu", "score": 0.3, "tile": None,
             "max_upload_mb": 1, "max_megapixels": 1}  # fmt: skip
    return SimpleNamespace(**usual | changed)


def test_without_gradio_a_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setattr("visionkit.demo.run.importlib.util.find_spec", lambda name: None)
    assert cli.main(["demo", "checkpoint=nowhere"]) == 2
    assert 'gradio is not installed; pip install "visionkit[demo]"' in capsys.readouterr().err


def test_a_port_that_is_taken_is_told_with_one_that_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("visionkit.demo.run.importlib.util.find_spec", lambda name: True)
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(UserError, match=rf"^port={port}: cannot be had \(.*\); port=\d+ is free$"):
            demo_run(config(port=port))
    with pytest.raises(UserError, match=r"^port=70000: a number from 0 to 65535 is wanted$"):
        demo_run(config(port=70000))


def test_numbers_out_of_their_range_are_refused(capsys) -> None:
    assert cli.main(["demo", "checkpoint=x", "max_upload_mb=0", "score=2"]) == 2
    told = capsys.readouterr().err
    assert "max_upload_mb=0: a number above 0 is wanted" in told
    assert "score=2: a share from 0 to 1 is wanted" in told


# ------------------------------------------------------------------------------------------------------------- the page
WATCH = """
import os, sys

def hook(event, arguments):
    if event in ("socket.connect", "socket.sendto"):
        address = arguments[1]
        asked = address[0] if isinstance(address, tuple) else "127.0.0.1"
    elif event == "socket.getaddrinfo":
        asked = arguments[0]
    else:
        return
    if asked not in (None, "127.0.0.1", "localhost", b"127.0.0.1", b"localhost"):
        with open(os.environ["ASKED"], "a") as file:
            file.write(f"{event} {asked}\\n")

sys.addaudithook(hook)
"""
"""Put into the tool's process, it writes down each host elsewhere that is asked for."""


class Demo:
    """The tool in a process of its own."""

    def __init__(self, run: Path, folder: Path) -> None:
        pytest.importorskip("gradio", reason="the extra demo is not installed")
        own = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "GRADIO_SHARE": "True"}
        typed = [f"checkpoint={run}", "port=0", "device=cpu", "max_upload_mb=0.1", "score=0"]
        command = [sys.executable, str(ROOT / "tools/demo.py"), *typed]
        self.folder, self.asked = folder / "files", folder / "asked.txt"
        self.folder.mkdir()
        (folder / "sitecustomize.py").write_text(WATCH)
        own |= {"TMPDIR": str(self.folder), "ASKED": str(self.asked), "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
        environment = {**os.environ, **own}
        self.process = subprocess.Popen(command, env=environment, text=True, cwd=self.folder, stdout=subprocess.PIPE,
                                        stderr=subprocess.PIPE)  # fmt: skip
        assert self.process.stdout is not None
        said = self.process.stdout.readline()
        found = re.match(r"http://127\.0\.0\.1:(\d+) shows the page, on this machine alone; Ctrl-C ends it", said)
        assert found, said + self.process.communicate(timeout=60)[1]
        self.port = int(found[1])
        self.url = f"http://127.0.0.1:{self.port}"

    def ask(self, method: str, path: str, body: bytes = b"", **headers: str) -> tuple[int, str, str]:
        """Status, body, and the policy that came with it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request(method, path, body, {key.replace("_", "-"): value for key, value in headers.items()})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text, answer.headers.get("content-security-policy", "")

    def upload(self, content: bytes, **headers: str) -> tuple[int, str, str]:
        head = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'
        kind = "multipart/form-data; boundary=x"
        return self.ask("POST", "/gradio_api/upload", head + content + b"\r\n--x--\r\n", Content_Type=kind, **headers)


@pytest.fixture(scope="module")
def demo(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    running = Demo(finished, tmp_path_factory.mktemp("demo"))
    yield running
    left = list(running.folder.glob("visionkit-demo-*"))
    running.process.send_signal(signal.SIGINT)
    out, err = running.process.communicate(timeout=60)
    assert len(left) == 1
    assert list(running.folder.iterdir()) == []  # nothing that was uploaded is kept
    assert running.process.returncode == 0
    assert out.strip() == "ended; nothing of what was uploaded is kept"
    assert "Traceback" not in err
    assert not running.asked.exists()


def test_the_server_answers_its_own_machine_alone(demo: Demo) -> None:
    status, page, policy = demo.ask("GET", "/")
    assert (status, policy) == (200, POLICY)
    assert "fonts.googleapis" not in page
    assert demo.ask("GET", "/", Host="elsewhere.example")[0] == 403
    assert demo.ask("GET", "/", Host=f"localhost:{demo.port}")[0] == 200
    for file in ("/etc/hostname", ROOT / "pyproject.toml"):
        assert demo.ask("GET", f"/gradio_api/file={file}")[0] == 403
    with socket.socket() as other:
        other.settimeout(2)
        address = socket.gethostbyname(socket.gethostname())
        assert address.startswith("127.") or other.connect_ex((address, demo.port)) != 0


def test_uploads_have_a_cap_and_no_other_site_may_send_them(demo: Demo) -> None:
    assert demo.upload(b"x" * 1000)[0] == 200
    assert demo.upload(b"x" * 200_000)[:2] == (413, "File size exceeded maximum allowed size of 104858 bytes.")
    assert demo.upload(b"x" * 1000, Sec_Fetch_Site="cross-site")[0] == 403


def test_a_client_gets_what_predict_writes(demo: Demo, tmp_path: Path) -> None:
    gradio_client = pytest.importorskip("gradio_client")
    client = gradio_client.Client(demo.url, verbose=False, analytics_enabled=False, download_files=str(tmp_path))
    said = client.predict(gradio_client.handle_file(photograph(tmp_path)), False, False, api_name="/look")
    assert "photo.png: 60 × 40 pixels, looked at in" in str(said)
    picture, found, files = client.predict(["detection"], [], 0, api_name="/choose")
    assert Image.open(picture).size == (60, 40)
    assert '<section class="vk-part"><h3>detection <small>' in found
    rows = json.loads(next(Path(one) for one in files["value"] if one.endswith(".json")).read_text())
    assert {row["file_name"] for row in rows} <= {"photo.png"}
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"hello")
    said = client.predict(gradio_client.handle_file(bad), False, False, api_name="/look")
    assert 'role="alert">bad.jpg: not an image; save it again as JPEG or PNG</p>' in str(said)


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_in_a_browser_an_image_becomes_a_drawing_a_table_and_files(demo: Demo, tmp_path: Path) -> None:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright, which drives Chromium, is missing")
    photo, bad = photograph(tmp_path), tmp_path / "bad.jpg"
    bad.write_bytes(b"hello")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = browser.new_page(viewport={"width": 390, "height": 800})
        faults, asked = [], []
        page.on("console", lambda line: faults.append(line.text) if line.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("request", lambda request: asked.append(request.url))
        page.goto(demo.url)
        page.wait_for_selector("#asked input[type=file]", state="attached")
        page.set_input_files("#asked input[type=file]", photo)
        page.wait_for_selector("#picture img")
        page.wait_for_selector("text=predictions")
        assert page.inner_text("#status").startswith("photo.png: 60 × 40 pixels, looked at in ")
        assert page.evaluate("document.querySelector('#picture img').naturalWidth") == 60
        assert "object" in page.inner_text("#found")
        assert page.evaluate("document.documentElement.scrollWidth") <= 390
        with page.expect_download() as download:
            page.click("#files a >> nth=0")
        assert isinstance(json.loads(Path(download.value.path()).read_text()), list)
        page.fill("#asked input[type=number]", "1")
        page.keyboard.press("Tab")
        page.wait_for_function("document.querySelector('#found').innerText.includes('no objects')")
        page.click('button[aria-label="Remove Image"]')
        page.wait_for_function("document.querySelector('#status').innerText.includes('Drop an image')")
        page.set_input_files("#asked input[type=file]", bad)
        page.wait_for_selector("#status [role=alert]")
        assert page.inner_text("#status") == "bad.jpg: not an image; save it again as JPEG or PNG"
        assert page.query_selector("#picture img") is None
        browser.close()
    assert faults == []
    assert [url for url in asked if not url.startswith((demo.url, "data:", "blob:"))] == []
