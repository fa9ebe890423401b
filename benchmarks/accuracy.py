"""Accuracy of the reference paper's methods on a data set, beside its figures.

    python benchmarks/accuracy.py --root .../mvtec --categories bottle pill
    python benchmarks/accuracy.py --zipper 1 2 3 --name zipper
    python benchmarks/accuracy.py --root .../casting --name casting

Every row is `anomalib-lite-train` with the configuration of `experiment=paper_mvtec` (or `paper_zipper`), the same for
every category. This only puts `anomalib-lite-benchmark` together: its tables and its page are in
`<outputs>/benchmark/<name>`, and a run that is already there is not repeated.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anomalib_lite.benchmark.arguments import as_argument
from anomalib_lite.benchmark.command import benchmark_command

PHOTOGRAPHED = "data.size=512"  # baselines see the photograph, which is not enlarged
ROWS: dict[str, tuple[list[str], str | None]] = {  # options, and the key of the published figures
    "CPCAE + deep features": (["model=cpcae"], "cpcae"),
    "AE (L2)": (["model=ae_l2"], "ae_l2"),
    "deep feature": (["model=deep_feature", PHOTOGRAPHED], "deep_feature"),
    "nearest neighbour": (["model=nearest_neighbour", PHOTOGRAPHED], "nearest_neighbour"),
    "variation": (["model=variation", PHOTOGRAPHED], "variation"),
    "ablation: no condition": (["model=cpcae", "model.condition=none"], None),
    "ablation: one-hot condition": (["model=cpcae", "model.condition=one_hot"], None),
    "ablation: no registration": (["model=cpcae", "data.registration=none"], None),
}


def main() -> int:
    return benchmark_command(command(sys.argv[1:]))


def command(typed: Sequence[str]) -> list[str]:
    """The arguments of `anomalib-lite-benchmark`."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", type=Path, help="folder of MVTec layout, or one that holds categories")
    parser.add_argument("--categories", nargs="*", default=[])
    parser.add_argument("--zipper", nargs="*", type=int, default=[], help="rendered sets 1..6")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--rows", nargs="+", choices=list(ROWS), default=list(ROWS), metavar="ROW")
    parser.add_argument(
        "--set", nargs="*", default=[], metavar="KEY=VALUE", help="further options of every run"
    )
    parser.add_argument("--jobs", type=int, default=1, help="runs at once")
    parser.add_argument("--outputs", type=Path, default=Path("outputs"))
    parser.add_argument("--name", default="accuracy", help="of the folder below <outputs>/benchmark")
    arguments = parser.parse_args(typed)
    data = data_sets(arguments.root, arguments.categories, arguments.zipper)
    if not data:
        parser.error("expected --root or --zipper, found neither")
    return [
        as_argument("benchmark.models", [method(row) for row in arguments.rows]),
        as_argument("benchmark.data", data),
        as_argument("benchmark.options", arguments.set),
        as_argument("benchmark.name", arguments.name),
        f"benchmark.seeds={arguments.seeds}",
        f"benchmark.jobs={arguments.jobs}",
        f"outputs={arguments.outputs}",
    ]


def method(row: str) -> dict[str, Any]:
    options, paper = ROWS[row]
    return {"name": row, "options": options} | ({"paper": paper} if paper else {})


def data_sets(root: Path | None, categories: Sequence[str], zipper: Sequence[int]) -> list[dict[str, Any]]:
    chosen = [("experiment=paper_zipper", f"zipper{number}", [f"data.set={number}"]) for number in zipper]
    if root is not None and not categories:
        chosen.append(("experiment=paper_mvtec", root.name, [f"data.root={root}", f"data.name={root.name}"]))
    for category in categories:
        chosen.append(
            ("experiment=paper_mvtec", category, [f"data.root={root}", f"data.category={category}"])
        )
    return [{"name": name, "options": [experiment, *options]} for experiment, name, options in chosen]


if __name__ == "__main__":
    sys.exit(main())
