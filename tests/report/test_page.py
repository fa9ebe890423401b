"""The page: whole, escaped, self-contained, and with the right values in it."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from anomalib_lite.report.page import write_report
from anomalib_lite.types import RunRecord

MakeRecord = Callable[..., RunRecord]
VOID = {"meta", "img", "br"}
HOSTILE = "<script>alert(1)</script>\"'&.png"
SHAPES = {
    "full": {},
    "no masks": {"masks": False},
    "no training": {"trained": False},
    "only good": {"defective": False},
    "only defective": {"good": False},
    "no threshold": {"cut": None},
    "nothing tested": {"good": False, "defective": False},
}


class Page(HTMLParser):
    """A page's tags, attributes and visible text; fails where tags are not balanced."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []
        self.pieces: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(tag, name, value or "") for name, value in attributes]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.pieces.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.pieces).split())

    def values(self, tag: str, name: str) -> list[str]:
        return [value for other, key, value in self.attributes if (other, key) == (tag, name)]


def report(record: RunRecord, folder: Path) -> Page:
    return Page(write_report(record, folder).read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def full_folder(make_record: MakeRecord, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run's folder with the report of a full record."""
    return write_report(make_record(), tmp_path_factory.mktemp("full")).parent


@pytest.fixture(scope="module")
def full_page(full_folder: Path) -> Page:
    """The page of a full record."""
    return Page((full_folder / "report.html").read_text(encoding="utf-8"))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_every_shape_of_run_gives_a_whole_self_contained_page(
    shape: dict[str, object], make_record: MakeRecord, tmp_path: Path
) -> None:
    page = report(make_record(**shape), tmp_path)
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"https?://|//[a-z]+\.", html)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert "url(" not in html
    assert "@import" not in html
    assert all(source.startswith("data:image/") for source in page.values("img", "src"))
    assert len(page.values("img", "alt")) == len(page.values("img", "src"))
    assert all(page.values("img", "alt"))
    assert not [name for _, name, _ in page.attributes if name.startswith("on")]
    assert "None" not in page.text
    assert "nan" not in page.text.split()


@pytest.mark.parametrize(
    ("shape", "plots"),
    [
        ("full", {"roc", "pr", "score_histogram", "tsne", "losses", "gallery"}),
        ("no training", {"roc", "pr", "score_histogram", "tsne", "gallery"}),
        ("only good", {"score_histogram", "losses", "gallery"}),
        ("nothing tested", {"losses"}),
    ],
)
def test_only_plots_that_have_data_are_written(
    shape: str, plots: set[str], make_record: MakeRecord, tmp_path: Path
) -> None:
    report(make_record(**SHAPES[shape]), tmp_path)
    assert {path.stem for path in (tmp_path / "plots").iterdir()} == plots


def test_the_page_shows_the_values(full_page: Page) -> None:
    text = full_page.text
    for expected in (
        "Of 4 defective parts 3 were found (75.0 %, 95 % interval 30.1–95.4 %) and 1 was missed.",
        "Guarantee: at most 5 % of good parts are rejected.",
        "These pictures are rendered, not photographed.",
        "95.12 % 81.2–99.1 % 50.0 %",
        "96.34 % 83.0–99.7 % 44.4 %",  # the chance level beside AP
        "75.00 % 30.1–95.4 %",  # the same intervals as in the verdict
        "20.00 % 3.6–62.4 %",
        "97.77 %",
        "87.65 %",
        "crack 2 2 100.00 %",
        "hole 2 1 90.00 %",
        "hole · 000.png · score 1.5000, threshold 2.0000",
        "pixel cut 0.2",
        "In /parts/test",
        "crack/001.png crack found 6.1250 0.984 0.980",
        "/parts/train/broken.png expected a picture, found 0 bytes",
        "/parts/test/crack/002.png not aligned: correlation 0.31, at least 0.60 expected",
        "python train.py model=cpcae data.root=/parts",
        "seed 0",
        "training 61.2 s",
    ):
        assert expected in text


def test_figures_that_are_not_known_are_left_out(full_page: Page) -> None:
    assert "pixel_AUROC" in full_page.text
    assert "pixel_AUPRO" not in full_page.text


def test_the_verdict_and_the_notes_come_before_everything_else(
    make_record: MakeRecord, tmp_path: Path
) -> None:
    text = report(make_record(), tmp_path).text
    order = [
        "3 were found",
        "Please note",
        "Key figures",
        "Pictures",
        "By defect type",
        "All scores",
        "About this run",
    ]
    places = [text.index(piece) for piece in order]
    assert places == sorted(places)


def test_gallery_shows_misses_and_false_rejects_first(full_page: Page) -> None:
    text = full_page.text
    titles = [
        "Missed: defective",
        "False rejects: good",
        "Defective: crack (2",
        "Defective: hole (1",
        "Good (4",
    ]
    places = [text.index(title) for title in titles]
    assert places == sorted(places)


def test_columns_that_a_method_never_fills_are_left_out(
    full_page: Page, make_record: MakeRecord, tmp_path: Path
) -> None:
    full = full_page.text
    bare = report(make_record(masks=False, trained=False, cut=None), tmp_path).text
    assert full.count("Reconstruction") == full.count("Ground truth") == 9
    assert "good part: nothing to mark" in full
    assert "Anomaly map" in bare
    for absent in (
        "Reconstruction",
        "Predicted mask",
        "Ground truth",
        "black line",
        "Wrong decisions",
        "pixel cut",
    ):
        assert absent in full, absent
        assert absent not in bare, absent


def test_hostile_names_are_only_text(make_record: MakeRecord, tmp_path: Path) -> None:
    record = make_record()
    for row in record.scores:
        row["path"] = f"/parts/{row['defect']}/{HOSTILE}"
        row["defect"] = row["defect"] if row["defect"] == "good" else HOSTILE
    for example in record.examples:
        example.name = HOSTILE
        example.defect = example.defect if example.defect == "good" else HOSTILE
    record.metrics["per_defect"] = {HOSTILE: {"count": 4, "image_AUROC": 0.9}}
    record.metrics["image"][HOSTILE] = 0.5
    record.title = record.command = HOSTILE
    record.notes = [HOSTILE]
    record.excluded = [(HOSTILE, HOSTILE)]
    record.facts = {HOSTILE: HOSTILE}
    page = report(record, tmp_path)
    assert "script" not in page.tags
    assert page.text.count("<script>alert(1)</script>") > 10
    assert f"Input of {HOSTILE}" in page.values("img", "alt")


def test_a_name_that_is_not_utf8_costs_nothing(make_record: MakeRecord, tmp_path: Path) -> None:
    record = make_record()
    record.examples[0].name = record.scores[0]["path"] = "caf\udce9.png"
    assert r"caf\udce9.png" in report(record, tmp_path).text


def test_the_same_record_gives_the_same_files(
    make_record: MakeRecord, full_folder: Path, tmp_path: Path
) -> None:
    write_report(make_record(), tmp_path)
    files = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*.*"))
    assert len(files) == 7
    for file in files:
        assert (tmp_path / file).read_bytes() == (full_folder / file).read_bytes(), file


def test_pictures_of_the_page_are_the_plots(full_page: Page, full_folder: Path) -> None:
    embedded = {base64.b64decode(source.split(",", 1)[1]) for source in full_page.values("img", "src")}
    assert (full_folder / "plots" / "roc.png").read_bytes() in embedded
    shapes = {Image.open(io.BytesIO(picture)).size for picture in embedded}
    assert (40, 24) in shapes


def test_vectors_may_leave_out_parts_without_a_score(
    make_record: MakeRecord, full_folder: Path, tmp_path: Path
) -> None:
    record = make_record()
    assert record.embeddings is not None
    record.embeddings = record.embeddings[:9]  # the last part was not aligned
    write_report(record, tmp_path)
    pictures = [(folder / "plots" / "tsne.png").read_bytes() for folder in (full_folder, tmp_path)]
    assert pictures[0] == pictures[1]


def test_vectors_of_other_parts_are_refused(make_record: MakeRecord, tmp_path: Path) -> None:
    record = make_record()
    record.latents = np.zeros((3, 2))
    with pytest.raises(ValueError, match="latents: expected 10 rows, one for each score, found 3"):
        write_report(record, tmp_path)


def test_a_bare_record_is_enough(tmp_path: Path) -> None:
    empty = np.zeros(0)
    record = RunRecord("t", "", {}, [], [], {}, [], empty, empty, None, [], None, None)
    assert "Nothing was tested" in report(record, tmp_path).text


def test_scores_beyond_the_table_are_counted(
    make_record: MakeRecord, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("anomalib_lite.report.page.MOST_ROWS", 2)
    text = report(make_record(), tmp_path).text
    assert "9 test parts, highest score first (the first 2; all are in scores.csv)" in text
    assert "crack/001.png crack found" in text
    assert "good/000.png good accepted" not in text
