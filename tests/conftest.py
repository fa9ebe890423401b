"""Fixtures that every test may use."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from anomalib_lite.data.images import write_png

# no deadline for an example: on a busy machine one may take any time, and a test must not fail for that
hypothesis.settings.register_profile("unhurried", deadline=None)
hypothesis.settings.load_profile("unhurried")

ASSETS = "ANOMALIB_LITE_TEST_ASSETS"
HOLE = (slice(20, 26), slice(28, 36))  # rows and columns of the drawn defect


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder with real photographs (data/) and backbone weights (weights/), or a skip with the reason."""
    folder = os.environ.get(ASSETS)
    if not folder:
        pytest.skip(f"{ASSETS} is not set: no real photographs here")
    path = Path(folder)
    if not (path / "data").is_dir():
        pytest.fail(f"{ASSETS}={folder}: expected a folder with data/ and weights/")
    return path


def _draw_set(root: Path, *, train: int = 20, seed: int = 0) -> Path:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:48, :64]
    disc = ((y - 24) ** 2 + (x - 32) ** 2 < 300) * 120

    def save(path: Path, *, hole: bool = False) -> None:
        picture = np.repeat((disc + 60 + rng.integers(0, 8, disc.shape))[..., None], 3, 2)
        if hole:
            picture[HOLE] = 20
        path.parent.mkdir(parents=True, exist_ok=True)
        write_png(path, picture.astype(np.uint8))

    mask = np.zeros((48, 64), np.uint8)
    mask[HOLE] = 255
    (root / "ground_truth" / "hole").mkdir(parents=True)
    for number in range(train):
        save(root / "train" / "good" / f"{number:03}.png")
    for number in range(4):
        save(root / "test" / "good" / f"{number:03}.png")
        save(root / "test" / "hole" / f"{number:03}.png", hole=True)
        write_png(root / "ground_truth" / "hole" / f"{number:03}_mask.png", mask)
    return root


@pytest.fixture(scope="session")
def draw_set() -> Callable[..., Path]:
    """Draws a set in MVTec's layout: a bright disc on a dark bench, 48 x 64; the defective ones have a hole."""
    return _draw_set


@pytest.fixture(scope="session")
def part(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A drawn set that no test changes."""
    return _draw_set(tmp_path_factory.mktemp("sets") / "part")


@dataclass(frozen=True)
class Ended:
    """What a user sees of a command that has ended, and the run folder that `outputs/latest` points at."""

    code: int
    out: str
    err: str
    outputs: Path

    @property
    def folder(self) -> Path:
        """Of the newest whole run."""
        return (self.outputs / "latest").resolve()


@pytest.fixture(scope="session")
def small() -> Callable[..., list[str]]:
    """Settings that make a run take a second or two: a function of the set, the outputs and the model."""

    def settings(root: Path | None, outputs: Path, *more: str, model: str = "cpcae") -> list[str]:
        general = (
            "data=mvtec data.name=part data.registration=none data.crop=null data.size=64 data.downsize=32 "
            "grid.size=16 grid.stride=8 model.batch_size=16 model.steps_per_epoch=40 trainer.max_epochs=2 "
            f"embedding=efficientnet_lite0 threads=1 report=false model={model}"
        ).split()
        network = ["model.widths=[4,8]", "model.latent_dim=4", "model.learning_rate=0.01"]
        return [
            *general,
            *(network if model in ("cpcae", "ae_l2") else []),
            *([] if root is None else [f"data.root={root}"]),
            f"outputs={outputs}",
            *more,
        ]

    return settings


@pytest.fixture(scope="session")
def train(small: Callable[..., list[str]]) -> Callable[..., Ended]:
    """`train.py` in this process: a function of the set, the outputs, further arguments and the model."""
    from anomalib_lite.run import train_command  # imports torch: not for tests that need no run

    def run(root: Path | None, outputs: Path, *more: str, model: str = "cpcae") -> Ended:
        return _ended(train_command, small(root, outputs, *more, model=model), outputs)

    return run


@pytest.fixture(scope="session")
def resume() -> Callable[[Path, Path], Ended]:
    """`train.py resume=<run folder>` in this process."""
    from anomalib_lite.run import train_command

    return lambda folder, outputs: _ended(train_command, [f"resume={folder}"], outputs)


@pytest.fixture(scope="session")
def predict() -> Callable[..., Ended]:
    """`predict.py` in this process: a function of the bundle, the source, the output and further arguments."""
    from anomalib_lite.run import predict_command

    def run(bundle: Path, source: Path, output: Path, *more: str) -> Ended:
        arguments = [f"bundle={bundle}", f"source={source}", f"output={output}", f"hydra.run.dir={output}"]
        return _ended(predict_command, [*arguments, "threads=1", *more], output)

    return run


def _ended(command: Callable[[list[str]], int], arguments: list[str], outputs: Path) -> Ended:
    out, err = io.StringIO(), io.StringIO()
    handler = signal.getsignal(signal.SIGINT)  # Lightning ignores Ctrl-C once it has seen one
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code = command(arguments)
    finally:
        signal.signal(signal.SIGINT, handler)
    return Ended(code, out.getvalue(), err.getvalue(), outputs)


@pytest.fixture(scope="session")
def finished(part: Path, train: Callable[..., Ended], tmp_path_factory: pytest.TempPathFactory) -> Ended:
    """A finished CPCAE run with its report, which no test changes."""
    ended = train(part, tmp_path_factory.mktemp("finished"), "report=true")
    assert ended.code == 0, ended.err
    return ended


@pytest.fixture(scope="session")
def accepted(finished: Ended) -> list[Path]:
    """The good test pictures that the finished run calls good: of four, the rule may reject one or two."""
    rows = csv.DictReader((finished.folder / "scores.csv").open())
    good = [Path(row["path"]) for row in rows if (row["label"], row["pred_label"]) == ("0", "0")]
    assert len(good) >= 2
    return good


@pytest.fixture
def untouched() -> Iterator[Callable[[Path], None]]:
    """Takes folders whose every file must be the same, byte for byte, at the end of the test."""
    watched: dict[Path, str] = {}

    def digest(folder: Path) -> str:
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        content = "".join(f"{path} {hashlib.sha256(path.read_bytes()).hexdigest()}\n" for path in files)
        assert content, f"nothing to watch in {folder}"
        return content

    yield lambda folder: watched.update({folder: digest(folder)})
    for folder, before in watched.items():
        assert digest(folder) == before
