"""Reads what the tests name, in a process that may be killed: little memory, and a watch on what it starts and writes.

python worker.py FOLDER        then a line of JSON on stdin for each attempt: {"reads": ..., "path": ...}
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import mutating
from fuzz import MARKER, Watch
from targets import check_answers

from anomalib_lite.console import resumed
from anomalib_lite.data.images import read_image, read_mask
from anomalib_lite.detector import Detector
from anomalib_lite.scores import Scores
from anomalib_lite.scoring.embedding import WEIGHTS_DIR, Embedder, find_weights
from anomalib_lite.scoring.rows import embedding_rows
from anomalib_lite.stages import StageStore
from anomalib_lite.stream_files import judged_paths, saved_drift
from anomalib_lite.training import _read_checkpoint
from anomalib_lite.types import InputError

MEMORY = 2**29  # bytes of address space beyond what the process has once everything is imported and was used
PHOTOGRAPH = mutating.photographs(1, seed=5)[0]


def bundle(path: Path) -> None:
    """A detector, and its answer for a photograph."""
    check_answers(Detector.load(path), PHOTOGRAPH)


def weights(path: Path) -> None:
    """The weights of a backbone in a folder, and an embedding."""
    os.environ[WEIGHTS_DIR] = str(path)
    embedder = Embedder(weights=find_weights(mutating.BACKBONE), pooling="max")
    embedding_rows(embedder(mutating.tensors([PHOTOGRAPH])[0]).numpy())  # as every classifier does


def stage(path: Path) -> None:
    """Scores that a stage holds."""
    found = StageStore(root=path).find("scores", {"seed": 0})
    if found is None:
        raise InputError("made again")
    Scores.load(found)


READERS: dict[str, Callable[[Path], object]] = {
    "bundle": bundle,
    "picture": read_image,
    "mask": lambda path: read_mask(path, (12, 17)),
    "checkpoint": _read_checkpoint,
    "weights": weights,
    "stage": stage,
    "run": lambda path: resumed([f"resume={path}"]),
    "lines": judged_paths,
    "drift": saved_drift,
}


def attempt(reads: str, path: Path, watch: Watch) -> tuple[str, str]:
    """What comes of reading a path, and its text: `read`, `refused` with the message, or what must not happen."""
    outcome, text = "read", ""
    try:
        with watch.watching():
            READERS[reads](path)
    except InputError as error:
        outcome, text = "refused", str(error)
    except BaseException as error:
        outcome, text = "crash", f"{type(error).__name__}: {error}"
    if watch.started or (watch.folder / MARKER).exists():
        return "ran code", str(watch.started)
    if watch.written:
        return "wrote outside", str(watch.written)
    return outcome, text


def main(folder: Path) -> None:
    """Answers each line with one."""
    sys.dont_write_bytecode = True
    os.chdir(folder)
    for name in ("knn", "vae"):  # everything is imported and warm before memory is limited
        mutating.seed_bundle(name, folder / "warm" / name)
        bundle(folder / "warm" / name)
    limit = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    watch = Watch(folder.resolve())
    print("ready", flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        outcome, text = attempt(asked["reads"], Path(asked["path"]), watch)
        print(json.dumps({"outcome": outcome, "text": text}), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
