"""The page in a real browser."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

playwright = pytest.importorskip(
    "playwright.sync_api", reason="no playwright here: the page was not looked at"
)
expect = playwright.expect

HOLE, SPECK = (20, 10, 6, 4), (40, 30, 3, 2)


def choose(page, *paths):
    page.set_input_files("#files", list(paths))


def test_an_upload_its_verdict_and_its_defects(opened, file):
    page = opened()
    expect(page.locator("#bundle")).to_have_text("outputs/x/bundle")
    expect(page.locator("#promise")).to_contain_text("at most 10 % of good parts are rejected")
    choose(page, file("bad one.png", HOLE, SPECK))
    expect(page.locator("#word")).to_have_text("Defective")
    expect(page.locator("#scale svg")).to_have_attribute("aria-label", "score 30, cut 10")
    expect(page.locator("#caption")).to_contain_text("bad one.png")
    expect(page.locator("#defects-title")).to_have_text("Defects (2)")
    assert page.locator("#defects tbody tr").all_inner_texts() == [
        "x 23, y 12\t24 px\t1",
        "x 41, y 31\t6 px\t1",
    ]
    choose(page, file("good.png"))
    expect(page.locator("#word")).to_have_text("Good")
    expect(page.locator("#no-defects")).to_have_text("No region lies above the pixel cut.")
    assert page.locator("#parts button").count() == 2
    expect(page.locator("#counts")).to_contain_text("50.0 % (1 of 2)")
    page.locator("#parts button").nth(1).click()  # the older one
    expect(page.locator("#word")).to_have_text("Defective")
    expect(page.locator("#parts button").nth(1)).to_have_attribute("aria-current", "true")


def test_a_picture_that_is_dropped(opened, file, encode, picture):
    page = opened()
    content = list(encode(picture(HOLE)))
    transfer = page.evaluate_handle(
        """content => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(content)], "dropped.png"));
            return transfer;
        }""",
        content,
    )
    page.dispatch_event("body", "dragover", {"dataTransfer": transfer})
    expect(page.locator("body")).to_have_class("dragging")
    page.dispatch_event("body", "drop", {"dataTransfer": transfer})
    expect(page.locator("#word")).to_have_text("Defective")
    expect(page.locator("body")).not_to_have_class("dragging")


def shown(page):
    """The picture on the page as pixels."""
    return cv2.imdecode(
        np.frombuffer(page.locator("#picture").screenshot(), np.uint8), cv2.IMREAD_COLOR
    ).astype(int)


def test_the_slider_changes_what_is_seen(opened, file):
    page = opened()
    choose(page, file("bad.png", HOLE))
    expect(page.locator("#overlay")).to_be_visible()
    expect(page.locator("#overlay")).to_have_css("opacity", "0.6")
    middle = shown(page)
    page.locator("#opacity").fill("0")
    expect(page.locator("#opacity-shown")).to_have_text("0 %")
    expect(page.locator("#overlay")).to_have_css("opacity", "0")
    bare = shown(page)
    page.locator("#opacity").fill("100")
    full = shown(page)
    y, x = bare.shape[0] * 12 // 40, bare.shape[1] * 23 // 60  # in the hole
    assert bare[y, x].max() < 30
    assert bare[y, x, 2] < middle[y, x, 2] < full[y, x, 2]  # dark red
    assert np.array_equal(bare[5, 5], full[5, 5])  # good regions stay as photographed
    page.locator("#opacity").focus()
    page.keyboard.press("ArrowLeft")
    expect(page.locator("#opacity-shown")).to_have_text("99 %")
    choose(page, file("other.png", SPECK, seed=1))  # keeps what was set
    expect(page.locator("#caption")).to_contain_text("other.png")
    expect(page.locator("#overlay")).to_have_css("opacity", "0.99")


def test_a_defect_is_shown_where_it_lies(opened, file):
    page = opened()
    choose(page, file("bad.png", HOLE, SPECK))
    page.get_by_role("button", name="x 41, y 31").click()
    frame, box = page.locator("#picture").bounding_box(), page.locator("#boxes rect").last.bounding_box()
    scale = frame["width"] / 60
    place = [
        (box["x"] - frame["x"]) / scale,
        (box["y"] - frame["y"]) / scale,
        box["width"] / scale,
        box["height"] / scale,
    ]
    assert place == pytest.approx(SPECK, abs=0.3)
    page.keyboard.press("Enter")  # the button has the focus: away again
    expect(page.locator("#boxes rect")).to_have_count(0)


def test_a_bad_upload_says_so_and_the_page_lives_on(opened, file, tmp_path):
    (tmp_path / "notes.png").write_text("not a picture")
    (tmp_path / "<img src=x onerror=alert(1)>.png").write_bytes(file("whole.png").read_bytes()[:900])
    (tmp_path / "large.png").write_bytes(bytes(2**20 + 1))
    page = opened(upload_bytes=2**20)
    expect(page.locator("#bundle")).not_to_be_empty()
    choose(
        page, tmp_path / "notes.png", tmp_path / "<img src=x onerror=alert(1)>.png", tmp_path / "large.png"
    )
    messages = page.locator("#messages li span")
    expect(messages).to_have_count(3)
    first, second, third = messages.all_inner_texts()
    assert first == "notes.png: expected a PNG, JPEG, BMP or TIFF picture, found a text file"
    assert second.startswith(
        "<img src=x onerror=alert(1)>.png: expected a whole picture, found it cut short or damaged"
    )
    assert third == "large.png: expected at most 1 MiB, found 1.0 MiB"
    assert page.locator("#messages img").count() == 0
    expect(page.locator("#said")).to_be_hidden()
    page.get_by_role("button", name="Dismiss this message").first.click()
    expect(messages).to_have_count(2)
    choose(page, file("good.png"))
    expect(page.locator("#word")).to_have_text("Good")
    expect(messages).to_have_count(0)


def test_a_review_is_written_taken_back_and_seen_elsewhere(opened, file, tmp_path):
    page = opened()
    bad = file("bad.png", HOLE)
    choose(page, bad)
    page.get_by_role("button", name="False reject: it is good").click()
    expect(page.locator("#marked")).to_contain_text("reviews/good")
    (written,) = (tmp_path / "reviews" / "good").iterdir()
    assert written.read_bytes() == bad.read_bytes()
    other = page.context.browser.new_page()
    other.goto(page.url)
    expect(other.locator('[data-mark="good"]')).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="It is defective").click()
    expect(page.locator('[data-mark="defective"]')).to_have_attribute("aria-pressed", "true")
    assert [path.parent.name for path in (tmp_path / "reviews").rglob("*.png")] == ["defective"]
    page.locator('[data-mark="defective"]').click()
    expect(page.locator("#marked")).to_be_hidden()
    assert list((tmp_path / "reviews").rglob("*.png")) == []
    marks = [
        json.loads(line)["mark"] for line in (tmp_path / "reviews" / "reviews.jsonl").read_text().splitlines()
    ]
    assert marks == ["good", "defective", None]
    other.close()
    choose(page, file("good.png", SPECK))
    page.get_by_role("button", name="Miss: it is defective").click()
    expect(page.locator("#marked")).to_contain_text("reviews/defective")


def test_what_is_not_aligned_or_has_no_cut(opened, darkness, tmp_path, encode, file):
    white = tmp_path / "white.png"
    white.write_bytes(encode(np.full((40, 60, 3), 255, np.uint8)))
    page = opened()
    choose(page, white)
    expect(page.locator("#word")).to_have_text("Not judged")
    expect(page.locator("#reason")).to_have_text("nothing but bench")
    expect(page.locator("#mixer")).to_be_hidden()
    page = opened(darkness(raw_cut=None, tau_=None, calibration=None, card={}))
    choose(page, file("bad.png", HOLE))
    expect(page.locator("#word")).to_have_text("No verdict")
    expect(page.locator("#scale")).to_have_text("score 24")
    expect(page.locator("#promise")).to_contain_text("No cut is set.")


def test_everything_is_reached_by_keyboard_and_has_a_name(opened, file):
    page = opened()
    choose(page, file("bad.png", HOLE))
    expect(page.locator("#parts button")).to_have_count(1)
    page.evaluate("document.activeElement.blur()")
    reached = []
    for _ in range(12):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.id || document.activeElement.textContent"))
    for name in ("files", "opacity", "x 23, y 12", "False reject: it is good", "It is defective"):
        assert name in reached
    named = "e => e.labels?.[0]?.textContent || e.ariaLabel || e.textContent"
    names = page.evaluate(f"[...document.querySelectorAll('button, input')].map({named})")
    assert all(name.strip() for name in names)


def test_a_server_that_goes_and_comes_back(opened, file, darkness, tmp_path):
    page = opened()
    choose(page, file("bad.png", HOLE))
    expect(page.locator("#parts button")).to_have_count(1)
    page.context.set_offline(True)
    expect(page.locator("#offline")).to_be_visible()
    choose(page, file("other.png"))
    expect(page.locator("#messages")).to_contain_text("the server does not answer")
    page.context.set_offline(False)
    expect(page.locator("#offline")).to_be_hidden()
    choose(page, file("other.png"))
    expect(page.locator("#word")).to_have_text("Good")


@pytest.mark.parametrize("size", [(390, 844), (1280, 800)])
def test_nothing_lies_beyond_the_edge(opened, file, size):
    page = opened(size=size)
    choose(page, *(file(f"{'long_name_' * 12}{seed}.png", HOLE, seed=seed) for seed in range(12)))
    expect(page.locator("#parts button")).to_have_count(12)
    expect(page.locator("#progress")).to_be_empty()
    assert page.evaluate("document.documentElement.scrollWidth") == size[0]
