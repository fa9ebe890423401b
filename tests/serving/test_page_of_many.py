"""The page in a real browser beside a stream, and after many parts."""

from __future__ import annotations

import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from anomalib_lite.data.video import FrameReader, open_source

playwright = pytest.importorskip(
    "playwright.sync_api", reason="no playwright here: the page was not looked at"
)
expect = playwright.expect

HOLE = (20, 10, 6, 4)


def test_a_stream_is_followed(opened, tmp_path, picture):
    path = tmp_path / "belt.mkv"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"FFV1"), 25, (60, 40))
    for number in range(30):
        writer.write(np.ascontiguousarray(picture(*[HOLE] * (number == 29), seed=number)[..., ::-1]))
    writer.release()
    page = opened(frames=FrameReader(open_source(str(path))))
    expect(page.locator("#stream-state")).to_contain_text("Ended: ")
    expect(page.locator("#stream-state")).to_contain_text("30 read")
    expect(page.locator("#word")).to_have_text("Defective")
    expect(page.locator("#caption")).to_contain_text("frame 29 at 1.2 s")
    assert page.locator("#parts button").count() == 30
    page.locator("#parts button").nth(3).click()
    expect(page.locator("#follow")).not_to_be_checked()
    expect(page.locator("#caption")).to_contain_text("frame 26")


def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@pytest.mark.slow
def test_500_uploads_in_a_row(opened, file, tmp_path):
    page = opened()
    page.set_default_timeout(120_000)
    paths = [
        file(f"{number:03}.png", *([HOLE] if number % 5 == 0 else []), seed=number) for number in range(500)
    ]
    sizes, start = [], time.monotonic()
    for batch in range(5):
        page.set_input_files("#files", paths[100 * batch : 100 * (batch + 1)])
        expect(page.locator("#counts")).to_contain_text(f"of {100 * (batch + 1)})", timeout=120_000)
        expect(page.locator("#progress")).to_be_empty(timeout=120_000)
        sizes.append(resident())
    print(
        f"{(time.monotonic() - start) / 500 * 1000:.0f} ms an upload, resident {[size >> 20 for size in sizes]} MiB"
    )
    expect(page.locator("#counts")).to_contain_text("20.0 % (100 of 500)")
    expect(page.locator("#messages li")).to_have_count(0)
    assert page.locator("#parts button").count() == 100
    assert page.locator("#parts button").first.get_attribute("title") == "Part 500: 499.png"
    assert sizes[-1] - sizes[0] < 15 * 2**20
