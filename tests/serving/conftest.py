"""An inspector that needs no network of its own, and pictures that it has an opinion of."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
import pytest
from fastapi.testclient import TestClient

from anomalib_lite.calibration import CalibrationRecord
from anomalib_lite.serving.app import make_app
from anomalib_lite.serving.local import running
from anomalib_lite.serving.reviews import Reviews
from anomalib_lite.types import Alignment, Prediction

if TYPE_CHECKING:
    from httpx import Response
    from playwright.sync_api import Browser, Page

UPLOAD_BYTES = 50_000
CARD = {
    "date": "2026-11-26",
    "data": "<b>discs</b>",  # shown as it is written
    "calibration": {
        "normals": {"train": 20, "validation": 4, "calibration": 9},
        "guarantee": "at most 10 % of good parts are rejected",
        "observed false rejects": "1 of 20",
    },
}


@dataclass
class Darkness:
    """Counts dark pixels: more than ten make a part defective, a white picture is not aligned."""

    tau_: float | None = 0.5
    mm_per_pixel: float | None = None
    raw_cut: float | None = 10.0
    card: dict[str, Any] = field(default_factory=lambda: dict(CARD))
    calibration: CalibrationRecord | None = field(
        default_factory=lambda: CalibrationRecord(
            scores=[float(score) for score in range(9)],
            errors=None,
            qualities=[1.0] * 9,
            validation_scores=[2.0, 3.0],
        )
    )

    def predict(self, photograph: np.ndarray, path: Path) -> Prediction:
        if photograph.min() == 1:
            alignment = Alignment(np.eye(2, 3), 0.1, False, "nothing but bench")
            return Prediction(path, np.nan, None, None, None, None, alignment, rejected="nothing but bench")
        anomaly_map = (photograph.max(axis=2) < 0.2).astype(np.float32)
        raw = float(anomaly_map.sum())
        label = None if self.raw_cut is None else int(raw > self.raw_cut)
        score = None if label is None else 1 / (1 + np.exp(-(raw - 10) / 5))
        return Prediction(path, raw, score, label, anomaly_map, anomaly_map > 0.5, Alignment(np.eye(2, 3)))

    def carry(
        self, anomaly_map: np.ndarray, alignment: Alignment, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        return anomaly_map, None if self.tau_ is None else anomaly_map > self.tau_


@pytest.fixture
def darkness() -> type[Darkness]:
    return Darkness


@pytest.fixture
def picture() -> Callable[..., np.ndarray]:
    """A grey picture (40, 60, 3) uint8, no two alike, with dark holes (x, y, width, height)."""

    def draw(*holes: tuple[int, int, int, int], seed: int = 0) -> np.ndarray:
        drawn = np.random.default_rng(seed).integers(120, 180, (40, 60, 3)).astype(np.uint8)
        for x, y, width, height in holes:
            drawn[y : y + height, x : x + width] = 5
        return drawn

    return draw


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """A picture (H, W, 3) uint8 RGB as a file's content."""

    def encode(pixels: np.ndarray, suffix: str = ".png") -> bytes:
        return cv2.imencode(suffix, pixels[..., ::-1])[1].tobytes()

    return encode


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    return tmp_path / "reviews"


@pytest.fixture
def client(darkness, reviews) -> Iterator[TestClient]:
    app = make_app(
        darkness(), bundle="outputs/x/bundle", reviews=Reviews(reviews, bundle="b"), upload_bytes=UPLOAD_BYTES
    )
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        yield client


@pytest.fixture
def upload() -> Callable[..., Response]:
    """Uploads a file's content."""

    def post(client: TestClient, content: bytes, name: str = "part.png") -> Response:
        return client.post("/api/parts", params={"name": name}, content=content)

    return post


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    executable = shutil.which("chromium")
    if executable is None:
        pytest.skip("no chromium here: the page was not looked at")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="no playwright here: the page was not looked at"
    )
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def file(tmp_path, picture, encode) -> Callable[..., Path]:
    """A picture's file, by its name and its holes."""

    def write(name: str, *holes: tuple[int, int, int, int], seed: int = 0) -> Path:
        path = tmp_path / name
        path.write_bytes(encode(picture(*holes, seed=seed)))
        return path

    return write


@pytest.fixture
def opened(browser, darkness, tmp_path) -> Iterator[Callable[..., Page]]:
    """Opens the page of an inspector; at the end, no error of a script or of the policy may have been seen."""
    faults: list[str] = []
    with ExitStack() as stack:

        def open_page(inspector=None, *, size=(1280, 800), **settings) -> Page:
            reviews = Reviews(tmp_path / "reviews", bundle="b")
            app = make_app(inspector or darkness(), bundle="outputs/x/bundle", reviews=reviews, **settings)
            port = stack.enter_context(running(app))
            page = browser.new_page(viewport={"width": size[0], "height": size[1]})
            stack.callback(page.close)
            page.set_default_timeout(20_000)
            page.on("pageerror", lambda error: faults.append(str(error)))
            page.on(
                "console",
                lambda line: faults.append(line.text) if "Failed to load" not in line.text else None,
            )
            page.goto(f"http://127.0.0.1:{port}/")
            return page

        yield open_page
    assert faults == []
