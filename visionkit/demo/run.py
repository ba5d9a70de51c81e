"""The run of tools/demo.py: a page of this machine, until somebody ends it."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from visionkit.demo.fence import HOST, HOST_NAMES, Fence
from visionkit.demo.looking import Looker
from visionkit.demo.page import STYLE, build_page
from visionkit.errors import UserError, listed, printable
from visionkit.predictor import Predictor, load

_SILENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_OFFLINE": "1",
    "DO_NOT_TRACK": "1",
}


def demo_run(cfg: Any) -> int:
    """Show a page on which cfg.checkpoint looks at images, until Ctrl-C or SIGTERM; return 0.

    Only this machine can open it. What is uploaded is kept in a folder that is removed at the end.

    Args:
        cfg: the keys of configs/demo.yaml.

    Raises:
        UserError: Gradio is missing, the port is taken, or the checkpoint cannot be loaded.
    """
    if importlib.util.find_spec("gradio") is None:
        raise UserError('demo: gradio is not installed; pip install "visionkit[demo]"', code="package-missing")
    port = _checked_port(cfg.port)
    predictor = load(cfg.checkpoint, cfg.device, cfg.allow)
    with tempfile.TemporaryDirectory(prefix="visionkit-demo-") as name, _told_to_end() as ended:
        _silence(Path(name))
        looker = Looker(predictor, Path(name), tile=cfg.tile, max_megapixels=cfg.max_megapixels)
        title = printable(Path(cfg.checkpoint).resolve().name)
        page = build_page(looker, title=title, subtitle=_subtitle(predictor), score=cfg.score)
        _launch(page, port, cfg.max_upload_mb)
        try:
            print(f"http://{HOST}:{page.server_port} shows the page, on this machine alone; Ctrl-C ends it", flush=True)
            while not ended.wait(1):
                pass
        except KeyboardInterrupt:
            pass
        finally:
            page.close(verbose=False)
    print("\nended; nothing of what was uploaded is kept")
    return 0


def _checked_port(port: int) -> int:
    """The port, or one that is free if it is 0.

    Raises:
        UserError: it is taken, or none.
    """
    if not 0 <= port < 65536:
        raise UserError(f"port={port}: a number from 0 to 65535 is wanted", code="value-unfit")
    try:
        return _free_port(port)
    except OSError as error:
        told = error.strerror or str(error)
        raise UserError(
            f"port={port}: cannot be had ({told}); port={_free_port(0)} is free", code="port-taken"
        ) from None


def _free_port(port: int) -> int:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if os.name == "posix":  # as servers do; elsewhere this would share a port that is taken
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind((HOST, port))
        found: int = probe.getsockname()[1]
        return found


def _silence(folder: Path) -> None:
    """Tell Gradio, before it is imported, to ask nobody, and to keep its files in `folder`."""
    for key in [key for key in os.environ if key.startswith("GRADIO_")]:
        del os.environ[key]  # they could share the page, or serve other folders
    os.environ.update(_SILENT)
    os.environ["GRADIO_TEMP_DIR"] = str(folder / "uploads")
    for key in ("NO_PROXY", "no_proxy"):  # Gradio asks the page itself whether it is there
        os.environ[key] = ",".join(filter(None, (os.environ.get(key), *HOST_NAMES)))


def _launch(page: Any, port: int, max_upload_mb: float) -> None:
    gradio = importlib.import_module("gradio")
    fence = importlib.import_module("starlette.middleware").Middleware(Fence)
    try:
        page.launch(
            server_name=HOST,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=round(max_upload_mb * 2**20),
            app_kwargs={"middleware": [fence]},
            state_session_capacity=20,
            footer_links=[],
            run_history=False,
            mcp_server=False,
            ssr_mode=False,
            pwa=False,
            theme=gradio.themes.Default(
                primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
            ),
            css=STYLE,
        )
    except OSError as error:
        raise UserError(
            f"port={port}: cannot be had ({error}); port={_free_port(0)} is free", code="port-taken"
        ) from None


@contextlib.contextmanager
def _told_to_end() -> Iterator[threading.Event]:
    """An event that is set by SIGTERM, where signals can be heard."""
    ended = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield ended
        return
    before = signal.signal(signal.SIGTERM, lambda *_: ended.set())
    try:
        yield ended
    finally:
        signal.signal(signal.SIGTERM, before)


def _subtitle(predictor: Predictor) -> str:
    return f"{listed(list(predictor.classes))} on {predictor.device}"
