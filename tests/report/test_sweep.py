"""The sweep's page and table, from made-up job folders."""

from __future__ import annotations

import base64
import csv
import hashlib
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from anomalib_lite.report import sweep_jobs
from anomalib_lite.report.sweep import write_curves, write_sweep

EVIL = "<script>alert(1)</script>,\"'&" + "x" * 300
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """Makes a job's folder and returns it."""

    def job(name: str, overrides: list[str], *, metrics: Any = None, **status: Any) -> Path:
        folder = tmp_path / "sizes" / name
        folder.mkdir(parents=True, exist_ok=True)
        told = {"state": "done", "overrides": overrides, "value": None, "error": None, "seconds": 1.5}
        told |= {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "reused": ["network"],
            "command": f"train {name}",
        }
        (folder / "status.json").write_text(json.dumps(told | status))
        if metrics is not None:
            (folder / "metrics.json").write_text(json.dumps(metrics))
        return folder

    return job


def figures(auroc: float, recall: float = 0.5, **more: Any) -> dict[str, Any]:
    image = {"image_AUROC": auroc - 0.1, "image_AP": 0.8, "image_F1Score": 0.7}
    return {
        "validation_AUROC": auroc,
        "validation_Recall": recall,
        "image": image,
        "pixel": {"pixel_AUROC": 0.9, "pixel_F1Score": float("nan")},
        "training": {"seconds": 61.25},
    } | more


class Page(HTMLParser):
    """The table's rows, the links and the text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.values: list[list[str | None]] = []
        self.links: list[str] = []
        self.scripts: list[dict[str, str | None]] = []
        self.heads: list[dict[str, str | None]] = []
        self.open: list[str] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        known = dict(attrs)
        self.open.append(tag)
        if tag == "tr" and (known.get("id") or "").startswith("job-"):
            self.rows.append([])
            self.values.append([])
        elif tag == "td" and self.rows:
            self.rows[-1].append("")
            self.values[-1].append(known.get("data-value"))
        elif tag == "a":
            self.links.append(known.get("href") or "")
        elif tag == "script":
            self.scripts.append(known)
        elif tag == "th" and "data-column" in known:
            self.heads.append(known)

    def handle_endtag(self, tag: str) -> None:
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data: str) -> None:
        if "script" in self.open or "style" in self.open:
            return
        self.text += data
        if "td" in self.open:
            self.rows[-1][-1] += data


def written(make: Make, tmp_path: Path) -> tuple[list[dict[str, str]], Page, str]:
    folder = tmp_path / "sizes"
    write_sweep(folder)
    html = (folder / "sweep.html").read_text("utf-8")
    with (folder / "sweep.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file)), Page(html), html


def test_table_and_page_hold_the_values_of_every_job(make: Make, tmp_path: Path) -> None:
    make("a", ["model.latent_dim=16", "+threshold.value=0.4"], value=0.9123, metrics=figures(0.9123, 0.75))
    reported = make(
        "b", ["model.latent_dim=32", "+threshold.value=0.4"], value=0.9345, metrics=figures(0.9345)
    )
    (reported / "report.html").write_text("")
    rows, page, html = written(make, tmp_path)
    assert [row["model.latent_dim"] for row in rows] == ["32", "16"]  # the best first
    assert rows[1] | {"started": "", "host": ""} == {
        "state": "done",
        "model.latent_dim": "16",
        "threshold.value": "0.4",
        "value": "0.9123",
        "validation_AUROC": "0.9123",
        "validation_Recall": "0.75",
        "test_image_AUROC": str(0.9123 - 0.1),
        "test_image_AP": "0.8",
        "test_image_F1Score": "0.7",
        "test_image_Precision": "",
        "test_image_Recall": "",
        "test_pixel_AUROC": "0.9",
        "test_pixel_F1Score": "",  # not a number
        "training_seconds": "61.25",
        "seconds": "1.5",
        "reused": "network",
        "error": "",
        "started": "",
        "host": "",
        "folder": "a",
        "command": "train a",
    }
    dash = "–"
    after_settings = [
        "91.23",
        "75.00",
        "81.23",
        "80.00",
        "70.00",
        dash,
        dash,
        "90.00",
        dash,
        "61.2",
        "1.5",
        "network",
    ]
    assert page.rows[1] == ["folder", "done", "16", "0.4", *after_settings]
    assert page.values[1][4:7] == ["0.9123", "0.75", str(0.9123 - 0.1)]
    assert page.values[1][12] == ""  # unknown: sorted last
    assert "b/report.html" in page.links
    assert "a/" in page.links
    assert (
        "Best: 93.45\N{NO-BREAK SPACE}% validation AUROC with model.latent_dim=32, threshold.value=0.4."
        in page.text
    )
    assert '<pre id="command">train b</pre>' in html
    assert "In the test, which chose nothing, it reaches 83.45" in page.text


def test_test_columns_are_marked_as_not_choosing(make: Make, tmp_path: Path) -> None:
    make("a", ["x=1"], value=0.9, metrics=figures(0.9))
    _, page, html = written(make, tmp_path)
    tested = [head["title"] for head in page.heads if "tested" in (head.get("class") or "")]
    assert tested[0] == "image_AUROC"
    assert tested[-1] == "pixel_F1Score"
    assert len(tested) == 7
    assert "test: not used to choose" in page.text
    assert "never by a test picture" in page.text
    # every head sorts the cells that stand below it
    assert [int(head["data-column"] or 0) for head in page.heads] == list(range(1, len(page.rows[0])))
    assert [head["data-kind"] for head in page.heads] == ["text", "text", *["number"] * 11, "text"]
    assert [head["title"] for head in page.heads if head.get("aria-sort") == "descending"] == [
        "validation_AUROC"
    ]
    assert html.count('data-first="descending"') == 9  # a figure's highest value comes first


def test_states_are_told_apart(make: Make, tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    make("alive", ["n=1"], state="running", metrics=figures(0.99), value=0.99)  # figures of an earlier try
    make("dead", ["n=2"], state="running", pid=gone.pid)
    make("far", ["n=3"], state="running", pid=gone.pid, host="elsewhere")
    make("bad", ["n=4"], state="failed", error="data/x: no pictures\n found")
    make("huge", ["n=5"], state="running", pid=10**30)
    make("good", ["n=6"], value=0.5)
    rows, page, _ = written(make, tmp_path)
    assert {row["folder"]: row["state"] for row in rows} == {
        "good": "done",
        "alive": "running",
        "far": "running",
        "dead": "interrupted",
        "huge": "interrupted",
        "bad": "failed",
    }
    for text in ("1 done", "2 running", "2 interrupted", "1 failed", "Best so far: 50.00"):
        assert text in page.text
    assert page.text.count("data/x: no pictures found") == 2  # in the table and in the list of failures
    assert rows[-1]["error"] == "data/x: no pictures found"
    assert [row["value"] for row in rows] == ["0.5", "", "", "", "", ""]


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("status.json", "{", "status.json can't be read: Expecting property name"),
        ("status.json", "[1]", "status.json can't be read: expected an object, found list"),
        ("status.json", "[" * 100_000, "status.json can't be read: nested too deeply"),
        ("status.json", b"\xff\xfe\xfa", "status.json can't be read:"),
        ("status.json", '{"state": ["done"]}', "status.json: unknown state"),
        ("metrics.json", '{"image"', "metrics.json can't be read:"),
    ],
)
def test_a_damaged_file_is_its_jobs_error(
    make: Make, tmp_path: Path, name: str, content: str | bytes, error: str
) -> None:
    make("good", ["n=1"], value=0.7, metrics=figures(0.7))
    bad = make("bad", ["n=2"], value=0.8)
    (bad / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    rows, page, _ = written(make, tmp_path)
    assert [(row["folder"], row["state"]) for row in rows] == [("good", "done"), ("bad", "failed")]
    assert rows[1]["error"].startswith(error)
    assert error in page.text


def test_wrong_types_are_unknown_values(make: Make, tmp_path: Path) -> None:
    make(
        "a",
        ["n=1"],
        value="0.9",
        seconds=[1],
        reused="network",
        pid="1",
        command=None,
        started=5,
        metrics={
            "validation_AUROC": "x",
            "image": [1],
            "pixel": {"pixel_AUROC": {}},
            "training": None,
            "encoding_elements": "8",
            "reconstruction": {"validation": [1], "test": 3},
        },
    )
    make("b", ["n=2"], value=float("nan"), metrics={"encoding_elements": 8, "reconstruction": 5})
    make("c", 3, value=True)  # type: ignore[arg-type]  # what a damaged file may hold
    (tmp_path / "sizes" / "no_job").mkdir()
    (tmp_path / "sizes" / "file").write_text("")
    rows, page, _ = written(make, tmp_path)
    assert [(row["folder"], row["value"], row["test_pixel_AUROC"]) for row in rows] == [
        ("c", "", ""),
        ("a", "", ""),
        ("b", "", ""),
    ]
    assert "No job is finished with a result yet." in page.text


def test_nothing_in_a_name_or_a_value_becomes_markup(make: Make, tmp_path: Path) -> None:
    overrides = [f"+{EVIL}={EVIL}", "n=1"]
    make("a#b?<i>%", overrides, value=0.5, command=EVIL, reused=[EVIL], metrics=figures(0.5))
    make("c", [f"+{EVIL}=b=c", "n=2"], value=0.6, metrics=figures(0.6))
    make("d", [f"+{EVIL}={EVIL}\ud800"], state="failed", error=EVIL, host=EVIL, started=EVIL)
    rows, page, html = written(make, tmp_path)
    assert len(page.scripts) == 1
    assert html.count("<script") == 1
    assert "<i>%" not in html
    assert "a%23b%3F%3Ci%3E%25/" in page.links
    # the comma and the equals sign belong to the key's and the value's own text
    key = EVIL
    assert rows[0][key] == "b=c"
    assert rows[1][key] == EVIL
    assert rows[1]["command"] == EVIL
    assert rows[2][key] == EVIL + "\\ud800"
    assert rows[2]["error"] == EVIL


def test_the_browser_runs_the_pages_own_script_alone(make: Make, tmp_path: Path) -> None:
    make("a", ["n=1"], value=0.5)
    _, _, html = written(make, tmp_path)
    script = re.search(r"<script>(.*?)</script>", html, re.DOTALL)
    assert script is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in html
    assert "default-src 'none'" in html
    assert not re.search(r"(src|href)=\"?(https?:)?//", html)


def test_among_jobs_of_one_value_the_fitted_cut_is_taken(make: Make, tmp_path: Path) -> None:
    for cut, recall in (("0.1", 1.0), ("0.4", 0.6), ("0.9", 0.1)):
        make(f"cut{cut}", [f"threshold.value={cut}"], value=0.8, metrics=figures(0.8, recall))
    reported = make("cut0.1", ["threshold.value=0.1"], value=0.8, metrics=figures(0.8, 1.0))
    (reported / "report.html").write_text("")
    rows, page, _ = written(make, tmp_path)
    assert [row["threshold.value"] for row in rows] == ["0.4", "0.1", "0.9"]
    assert "with threshold.value=0.4." in page.text
    assert "3 jobs share this value; they differ in threshold.value. That moves a cut" in page.text
    taken = "nearest to the cut that its rule fitted (0.5), then the one that finds the most drawn defects"
    assert taken in page.text
    assert "report of a job with the same value" in page.text


def test_among_pixel_cuts_nothing_is_claimed_of_the_image_cut(make: Make, tmp_path: Path) -> None:
    for tau in ("0.7", "0.1"):
        make(f"tau{tau}", [f"postprocess.tau={tau}"], value=0.8, metrics=figures(0.8))
    _, page, _ = written(make, tmp_path)
    assert (
        "That moves a cut, on which validation AUROC does not depend. Taken is the one with the lowest"
        in page.text
    )
    assert "nearest to the cut" not in page.text
    assert "with postprocess.tau=0.1." in page.text


def test_a_study_of_cuts_is_linked(make: Make, tmp_path: Path) -> None:
    (make("a", ["n=1"], value=0.5) / "cuts.html").write_text("")
    make("b", ["n=2"], value=0.6)
    (make("c", ["n=3"], state="failed") / "cuts.html").write_text("")  # of an earlier try
    _, page, _ = written(make, tmp_path)
    assert [link for link in page.links if "cuts" in link] == ["a/cuts.html"]
    assert "its cuts compared" not in page.text
    (make("b", ["n=2"], value=0.65) / "cuts.html").write_text("")
    _, page, _ = written(make, tmp_path)
    assert [link for link in page.links if "cuts" in link] == ["b/cuts.html", "b/cuts.html", "a/cuts.html"]
    assert "its cuts compared" in page.text


def test_among_jobs_of_one_value_the_better_recall_then_the_lower_setting_is_taken(
    make: Make, tmp_path: Path
) -> None:
    make("a", ["model.latent_dim=128"], value=1.0, metrics=figures(1.0, 0.9))
    make("b", ["model.latent_dim=16"], value=1.0, metrics=figures(1.0, 0.9))
    make("c", ["model.latent_dim=8"], value=1.0, metrics=figures(1.0, 0.8))
    _, page, _ = written(make, tmp_path)
    assert "with model.latent_dim=16." in page.text
    assert "3 jobs share this value; they differ in model.latent_dim. Taken is" in page.text


def test_a_lucky_seed_is_called_so(make: Make, tmp_path: Path) -> None:
    for seed, value in enumerate((0.7, 0.9, 0.8)):
        make(f"a{seed}", ["n=1", f"seed={seed}"], value=value)
    make("b", ["n=2", "seed=0"], value=0.75)
    _, page, _ = written(make, tmp_path)
    assert "over 3 seeds these settings reach 80.00\N{NO-BREAK SPACE}% on average" in page.text


def test_no_jobs_at_all(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    write_sweep(folder)
    assert "No job has started yet." in (folder / "sweep.html").read_text("utf-8")
    assert (folder / "sweep.csv").read_text().splitlines() == [
        "state,value,validation_AUROC,validation_Recall,test_image_AUROC,test_image_AP,test_image_F1Score,"
        "test_image_Precision,test_image_Recall,test_pixel_AUROC,test_pixel_F1Score,training_seconds,seconds,"
        "reused,error,started,host,folder,command"
    ]


def test_a_changed_job_is_read_again_and_a_removed_one_forgotten(make: Make, tmp_path: Path) -> None:
    make("a", ["n=1"], state="running")
    gone = make("b", ["n=2"], value=0.5)
    assert [row["state"] for row in written(make, tmp_path)[0]] == ["done", "running"]
    make("a", ["n=1"], value=0.6, metrics=figures(0.6))
    assert [row["value"] for row in written(make, tmp_path)[0]] == ["0.6", "0.5"]
    # same length, same time: an own file all the same
    status = gone / "status.json"
    times = status.stat()
    other = gone / "other.json"
    other.write_text(status.read_text().replace("0.5", "0.7"))
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(status)
    rows, page, _ = written(make, tmp_path)
    assert [row["value"] for row in rows] == ["0.7", "0.6"]
    assert [row[3] for row in page.rows] == ["70.00", "60.00"]
    status.unlink()
    assert [row["folder"] for row in written(make, tmp_path)[0]] == ["a"]


def test_new_keys_change_the_rows_of_old_jobs(make: Make, tmp_path: Path) -> None:
    make("a", ["n=1"], value=0.6)
    assert len(written(make, tmp_path)[1].rows[0]) == 15
    make("b", ["m=1"], value=0.5)
    rows, page, _ = written(make, tmp_path)
    assert [len(row) for row in page.rows] == [16, 16]
    assert [(row["n"], row["m"]) for row in rows] == [("1", ""), ("", "1")]


def test_two_writers_at_once_leave_whole_files(make: Make, tmp_path: Path) -> None:
    for number in range(12):
        make(f"job{number}", [f"n={number}"], value=number / 20, metrics=figures(number / 20))
    folder = tmp_path / "sizes"
    write_sweep(folder)
    stop, torn = threading.Event(), []

    def read() -> None:
        while not stop.is_set():
            page, table = (
                (folder / "sweep.html").read_text("utf-8"),
                (folder / "sweep.csv").read_text("utf-8"),
            )
            if not page.rstrip().endswith("</html>") or table.count("\n") != 13:
                torn.append((len(page), len(table)))

    reader = threading.Thread(target=read)
    reader.start()
    code = "import sys, pathlib; from anomalib_lite.report.sweep import write_sweep\n"
    code += "for _ in range(15): write_sweep(pathlib.Path(sys.argv[1]))"
    other = subprocess.Popen([sys.executable, "-c", code, str(folder)])
    for _ in range(15):
        write_sweep(folder)
    assert other.wait() == 0
    stop.set()
    reader.join()
    assert torn == []
    assert sorted(path.name for path in folder.iterdir() if path.is_file()) == ["sweep.csv", "sweep.html"]


def test_a_failed_write_leaves_the_old_page(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make("a", ["n=1"], value=0.6)
    before = written(make, tmp_path)[2]
    make("b", ["n=2"], value=0.7)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_sweep(tmp_path / "sizes")
    assert (tmp_path / "sizes" / "sweep.html").read_text("utf-8") == before


def test_the_study_of_encoding_sizes_is_on_the_page_and_in_a_picture(make: Make, tmp_path: Path) -> None:
    def study(elements: int, ratio: float) -> dict[str, Any]:
        one = {
            "total": 0.01,
            "total_se": 0.001,
            "vicinity": 0.01 * ratio,
            "vicinity_se": 0.002,
            "ratio": ratio,
        }
        one |= {"ratio_se": 0.3, "count": 24, "from": "drawn defects"}
        return figures(0.8, encoding_elements=elements, reconstruction={"validation": one, "test": None})

    make("a", ["model.latent_dim=16"], value=0.8, metrics=study(16, 2.0))
    assert write_curves(tmp_path / "sizes") is None
    assert "Size of the encoding" not in written(make, tmp_path)[1].text
    make("b", ["model.latent_dim=32"], value=0.8, metrics=study(32, 3.8))
    make("c", ["model.latent_dim=64"], value=0.8, metrics=study(64, 4.0))
    _, page, html = written(make, tmp_path)
    assert "Recommended: 64 elements (model.latent_dim=64)" in page.text
    assert "Upright: the recommended 64; dashed: 32, the smallest within one standard error" in page.text
    assert html.count('class="mark dashed"') == 1
    assert "masks of the test" not in page.text
    picture = write_curves(tmp_path / "sizes")
    assert picture == tmp_path / "sizes" / "curves.png"
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_the_page_of_eighty_jobs_costs_little(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in (16, 32, 64, 128):
        for cut in range(20):
            overrides = [f"model.latent_dim={size}", f"threshold.value={0.05 * cut:g}"]
            make(f"{size}-{cut}", overrides, value=0.5 + size / 400, metrics=figures(0.5, cut / 20))
    write_sweep(tmp_path / "sizes")
    read: list[str] = []
    read_job = sweep_jobs.read_job

    def counted(folder: Path) -> sweep_jobs.Job:
        read.append(folder.name)
        return read_job(folder)

    monkeypatch.setattr(sweep_jobs, "read_job", counted)
    make("16-3", ["model.latent_dim=16", "threshold.value=0.15"], value=0.6, metrics=figures(0.6))
    spent = []
    for _ in range(5):
        start = time.process_time()
        write_sweep(tmp_path / "sizes")
        spent.append(time.process_time() - start)
    assert read == ["16-3"]  # what has not changed is not read again
    assert min(spent) < 0.1  # 0.01 s on a quiet machine


def test_the_page_does_without_torch_and_matplotlib() -> None:
    code = (
        "import sys, anomalib_lite.report.sweep; print({'torch', 'matplotlib', 'numpy'} & sys.modules.keys())"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "set()"
