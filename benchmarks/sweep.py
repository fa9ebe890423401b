"""What a sweep costs beside what it has to compute: work shared between jobs, the same sweep again, start-up.

Everything is timed in processes of its own, in one run: bare Hydra (its own sweeper and launcher, our configs, a job
that does nothing), the trainings alone, the sweep, the same sweep again. The zippers are rendered here.

    python benchmarks/sweep.py --out sweep.json    # forty minutes on two idle cores
    python benchmarks/sweep.py --quick             # does it run? its figures mean nothing
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from measuring import Figure

ROOT = Path(__file__).resolve().parent.parent
SIZES = (16, 32, 64, 128)
THRESHOLDS = 20
QUICK = (
    "data.picture=[160,120]", "data.size=96", "data.downsize=64", "grid.size=32", "grid.stride=16",
    "trainer.max_epochs=2", "model.steps_per_epoch=5",
)  # fmt: skip
PATH = f"import sys; sys.path.insert(0, {str(ROOT)!r}); "
LIGHTNING = "import torch, lightning.pytorch"
# all that a job imports, then Hydra up to the job's first line
STARTED = PATH + (
    "from anomalib_lite import run; from anomalib_lite.console import main; run.register_schemas(); "
    "main('train', lambda cfg: None, sys.argv[1:])"
)
# Hydra as it comes: every job composed twice, numbered folders
BARE = PATH + (
    "import hydra; from anomalib_lite import run, console; run.register_schemas(); console.register_sweepers(); "
    "job = hydra.main(version_base='1.3', config_path=str(console.config_folder()), config_name='train'); "
    "job(lambda cfg: None)()"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table, write it as JSON where asked to, and return 1 if a target is missed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, help="write the figures as JSON")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quick", action="store_true", help="tiny pictures: whether it runs")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="settings of every job")
    parser.add_argument("--rounds", type=int, default=5, help="of what takes seconds")
    asked = parser.parse_args(arguments)
    sizes, count = (SIZES[:2], 4) if asked.quick else (SIZES, THRESHOLDS)
    with TemporaryDirectory() as work:
        settings = [*(QUICK if asked.quick else ()), *asked.set]
        figures = measure(Path(work), sizes, count, settings, asked.threads, asked.rounds)
    print("\n".join(map(str, figures)))
    if asked.out:
        about = {"sizes": sizes, "thresholds": count, "threads": asked.threads, "rounds": asked.rounds}
        found = {"settings": about | {"set": asked.set}, "figures": [asdict(figure) for figure in figures]}
        asked.out.write_text(json.dumps(found, indent=1) + "\n")
    return int(not all(figure.met for figure in figures))


def measure(
    work: Path, sizes: Sequence[int], count: int, settings: Sequence[str], threads: int, rounds: int
) -> list[Figure]:
    """Time everything; `count` thresholds for each of the `sizes`."""

    def seconds(*command: str) -> float:
        start = time.perf_counter()
        ended = subprocess.run(
            [sys.executable, *command],
            env={**os.environ, "OMP_NUM_THREADS": str(threads)},
            capture_output=True,
            text=True,
        )
        if ended.returncode:
            raise SystemExit(f"{' '.join(command)}\n{ended.stdout}{ended.stderr}")
        return time.perf_counter() - start

    common = ["model=cpcae", "data=zipper", f"data.source.folder={work / 'rendered'}", *settings]
    train = [str(ROOT / "train.py"), *common, f"outputs={work / 'outputs'}"]
    seconds("-c", LIGHTNING), seconds("-c", STARTED, *common, f"outputs={work / 'none'}")  # files into memory
    pairs = [
        (seconds("-c", LIGHTNING), seconds("-c", STARTED, *common, f"outputs={work / 'none'}"))
        for _ in range(rounds)
    ]
    startup = statistics.median(started for _, started in pairs)
    seconds(*train, "trainer.max_epochs=1", "model.steps_per_epoch=1", "report=false")  # renders them
    alone = [
        seconds(*train, f"model.latent_dim={size}", f"outputs={work / f'alone{size}'}", "report=null")
        - startup
        for size in sizes
    ]
    latent = f"model.latent_dim={','.join(map(str, sizes))}"
    cuts = [
        f"threshold.value={','.join(f'{first + step / (4 * count):.4f}' for step in range(count))}"
        for first in (0.3, 0.6)
    ]
    jobs = len(sizes) * count
    bare = seconds(
        "-c", BARE, "-m", *common, f"outputs={work / 'bare'}", "hydra/sweeper=basic", latent, cuts[0]
    )
    first = seconds(train[0], "-m", *train[1:], latent, cuts[0])
    again = seconds(train[0], "-m", *train[1:], latent, cuts[0])
    turns = []
    for number in range(max(1, rounds // 2)):
        folder = f"sweep_name=cuts{number}"
        turns.append(
            (
                seconds(
                    "-c", BARE, "-m", *common, f"outputs={work / 'bare'}", "hydra/sweeper=basic", cuts[1]
                ),
                seconds(train[0], "-m", *train[1:], f"model.latent_dim={sizes[0]}", cuts[1], folder),
            )
        )
    bare_job, cut_job = (
        1000 * (statistics.median(side) - startup) / count for side in zip(*turns, strict=True)
    )
    return [
        Figure(
            name="import of torch and lightning", value=statistics.median(pair[0] for pair in pairs), unit="s"
        ),
        Figure(
            name="start-up of a job / that import",
            value=statistics.median(started / imported for imported, started in pairs),
            most=1.3,
        ),
        Figure(name=f"{len(sizes)} trainings alone, without start-up", value=sum(alone), unit="s"),
        Figure(name=f"{jobs} bare Hydra jobs", value=bare, unit="s"),
        Figure(name=f"{len(sizes)} sizes x {count} thresholds", value=first, unit="s"),
        Figure(
            name="the sweep / (1.1 x trainings + bare jobs)",
            value=first / (1.1 * sum(alone) + bare),
            most=1.0,
        ),
        Figure(name="the same sweep again", value=again, unit="s"),
        Figure(name="the same sweep again / bare jobs", value=again / bare, most=2.0),
        Figure(name="a bare job", value=bare_job, unit="ms"),
        Figure(name="a job that differs in its threshold", value=cut_job, unit="ms"),
        Figure(name="a job that differs in its threshold / a bare one", value=cut_job / bare_job, most=1.5),
    ]


if __name__ == "__main__":
    sys.exit(main())
