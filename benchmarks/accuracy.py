"""Accuracy of every method on a data set, beside the published figures.

    python benchmarks/accuracy.py --root .../mvtec --categories bottle pill --out outputs/accuracy.json
    python benchmarks/accuracy.py --zipper 1 2 3 --out outputs/zipper.json
    python benchmarks/accuracy.py --root .../casting --out outputs/casting.json

Every row is `anomalib-lite-train` with the configuration of `experiment=paper_mvtec` (or `paper_zipper`), the same for
every category; figures are means over the seeds. A run that is already there is not repeated.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anomalib_lite.run import train_command
from anomalib_lite.stages import digest

# Image AUROC / AP in %, Saeedi & Giusti 2022, tables 2 and 3.
PAPER: dict[str, dict[str, tuple[float, float]]] = {
    "cpcae": {
        "bottle": (99.71, 99.90), "cable": (87.73, 92.54), "capsule": (86.39, 96.71), "hazelnut": (95.87, 97.90),
        "metal_nut": (79.28, 94.88), "pill": (86.74, 97.23), "toothbrush": (100.0, 100.0),
        "transistor": (93.06, 91.68), "zipper1": (95.67, 98.35), "zipper2": (96.90, 98.16), "zipper3": (95.20, 90.90),
        "zipper4": (88.08, 88.81), "zipper5": (94.64, 96.00), "zipper6": (96.10, 96.43),
    },
    "ae_l2": {
        "bottle": (89.77, 96.83), "cable": (82.70, 89.70), "capsule": (54.89, 87.12), "hazelnut": (85.23, 91.74),
        "metal_nut": (59.45, 87.36), "pill": (79.85, 95.59), "toothbrush": (76.68, 91.03),
        "transistor": (86.35, 85.72), "zipper1": (87.81, 95.24), "zipper2": (95.59, 97.05), "zipper3": (92.21, 87.88),
        "zipper4": (77.54, 83.01), "zipper5": (78.48, 82.47), "zipper6": (91.11, 90.17),
    },
    "deep_feature": {
        "bottle": (96.71, 98.90), "cable": (83.61, 90.45), "capsule": (88.37, 96.40), "hazelnut": (90.29, 95.01),
        "metal_nut": (68.93, 90.21), "pill": (71.71, 92.38), "toothbrush": (91.67, 96.85),
        "transistor": (85.33, 85.51), "zipper1": (85.32, 93.78), "zipper2": (95.77, 96.99), "zipper3": (80.81, 51.10),
        "zipper4": (74.97, 74.75), "zipper5": (62.15, 73.47), "zipper6": (93.77, 93.31),
    },
    "nearest_neighbour": {
        "bottle": (81.02, 93.78), "cable": (81.30, 88.11), "capsule": (69.78, 91.09), "hazelnut": (52.83, 74.29),
        "metal_nut": (60.16, 87.76), "pill": (63.66, 88.71), "toothbrush": (95.84, 98.46),
        "transistor": (81.12, 78.64), "zipper1": (91.06, 96.36), "zipper2": (94.14, 96.50), "zipper3": (90.69, 86.51),
        "zipper4": (82.72, 85.94), "zipper5": (76.31, 79.88), "zipper6": (91.58, 92.83),
    },
    "variation": {
        "bottle": (79.25, 93.12), "cable": (68.20, 77.88), "capsule": (46.05, 83.08), "hazelnut": (49.13, 70.93),
        "metal_nut": (42.95, 79.20), "pill": (62.86, 87.56), "toothbrush": (86.48, 94.36),
        "transistor": (73.09, 75.15), "zipper1": (91.32, 96.18), "zipper2": (93.45, 95.47), "zipper3": (91.13, 86.37),
        "zipper4": (77.06, 83.33), "zipper5": (73.53, 77.11), "zipper6": (81.76, 81.06),
    },
}  # fmt: skip

ROWS = {
    "CPCAE + deep features": ["model=cpcae"],
    "AE (L2)": ["model=ae_l2"],
    "deep feature": ["model=deep_feature", "data.size=512"],  # of photographs, not enlarged
    "nearest neighbour": ["model=nearest_neighbour", "data.size=512"],
    "variation": ["model=variation", "data.size=512"],
    "ablation: no condition": ["model=cpcae", "model.condition=none"],
    "ablation: one-hot condition": ["model=cpcae", "model.condition=one_hot"],
    "ablation: no registration": ["model=cpcae", "data.registration=none"],
}
SHOWN = ("image_AUROC", "image_AP", "pixel_AUROC", "pixel_AUPRO", "false_reject_rate", "validation_AUROC")


@dataclass(frozen=True)
class Target:
    """One data set: its name in the paper's tables and the options that choose it."""

    name: str
    options: list[str]


def main() -> None:
    arguments = parse()
    results: dict[str, dict[str, list[dict[str, float | None]]]] = {}
    for target in targets(arguments):
        results[target.name] = {}
        for row in arguments.rows:
            runs = [measure(target, ROWS[row], seed, arguments) for seed in arguments.seeds]
            results[target.name][row] = runs
        print(f"\n{target.name}: mean of seeds {arguments.seeds} in %, lowest to highest seed in brackets\n")
        print(table(target.name, results[target.name]))
        arguments.out.parent.mkdir(parents=True, exist_ok=True)
        arguments.out.write_text(json.dumps({"seeds": arguments.seeds, "results": results}, indent=1))


def parse() -> argparse.Namespace:
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
    parser.add_argument("--runs", type=Path, default=Path("outputs/accuracy"), help="where the runs go")
    parser.add_argument("--out", type=Path, default=Path("outputs/accuracy.json"))
    return parser.parse_args()


def targets(arguments: argparse.Namespace) -> list[Target]:
    chosen = [
        Target(
            category, ["experiment=paper_mvtec", f"data.root={arguments.root}", f"data.category={category}"]
        )
        for category in arguments.categories
    ]
    if arguments.root and not arguments.categories:
        options = [
            "experiment=paper_mvtec",
            f"data.root={arguments.root}",
            f"data.name={arguments.root.name}",
        ]
        chosen.append(Target(arguments.root.name, options))
    return chosen + [
        Target(f"zipper{number}", ["experiment=paper_zipper", f"data.set={number}"])
        for number in arguments.zipper
    ]


def measure(
    target: Target, options: list[str], seed: int, arguments: argparse.Namespace
) -> dict[str, float | None]:
    """The figures of one run; the run itself only where its metrics.json is not there yet."""
    own = [*options, *target.options, *arguments.set, f"seed={seed}", "report=false"]
    folder = arguments.runs / target.name / f"{digest(own)}"
    path = folder / "metrics.json"
    if not path.is_file():
        code = train_command([*own, f"hydra.run.dir={folder}"])
        if code != 0:
            raise SystemExit(f"{' '.join(own)}: ended with {code}")
    metrics = json.loads(path.read_text())
    flat = {**metrics["image"], **metrics["pixel"], "validation_AUROC": metrics["validation_AUROC"]}
    low, high = metrics["intervals"].get("image_AUROC", (None, None))
    return {name: flat.get(name) for name in SHOWN} | {
        "image_AUROC_low": low,
        "image_AUROC_high": high,
        **{f"seconds {name}": value for name, value in metrics["seconds"].items()},
    }


def table(name: str, rows: dict[str, list[dict[str, float | None]]]) -> str:
    lines = [f"| method | paper AUROC / AP | {' | '.join(SHOWN)} |", "|---" * (len(SHOWN) + 2) + "|"]
    for row, runs in rows.items():
        model = ROWS[row][0].removeprefix("model=")
        published = PAPER.get(model, {}).get(name) if not row.startswith("ablation") else None
        paper = f"{published[0]:.2f} / {published[1]:.2f}" if published else ""
        lines.append(
            f"| {row} | {paper} | {' | '.join(cell([run[metric] for run in runs]) for metric in SHOWN)} |"
        )
    return "\n".join(lines)


def cell(values: list[float | None]) -> str:
    numbers = [100 * value for value in values if value is not None]
    if not numbers:
        return ""
    spread = f" ({min(numbers):.1f}-{max(numbers):.1f})" if len(numbers) > 1 else ""
    return f"{np.mean(numbers):.2f}{spread}"


if __name__ == "__main__":
    main()
