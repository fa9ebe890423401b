"""How exactly registration finds a part again: warped copies of photographs against their originals.

A photograph is aligned; then a copy of it, rotated and shifted by known amounts, is aligned as well. Undoing
the known motion must give the same alignment. Errors are in pixels of the photograph, over the reference's
view: the root mean square over a grid, and the farthest corner. A case counts as found if it was accepted and
lies within half a pixel (RMS) and 0.1 degrees.

    python benchmarks/registration.py --data parts/train/good --rendered 1 2 --method ecc --out out.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from anomalib_lite.data.affine import angle, compose, invert, rotation, translation
from anomalib_lite.data.images import IMAGE_SUFFIXES, read_image
from anomalib_lite.data.registration import Registration
from anomalib_lite.data.rendered.zipper import render_picture

PIXELS, DEGREES = 0.5, 0.1  # tolerance
GRID = 20
RENDERED = 24  # pictures of a rendered set
FIGURES = (
    "found",
    "accepted",
    "rms_median",
    "rms_p99",
    "corner_p99",
    "degrees_median",
    "degrees_p99",
    "ms_median",
)


def photographs_of(arguments: argparse.Namespace) -> dict[str, list[np.ndarray]]:
    """Photographs by source: the first ones of each folder, and pictures rendered on the spot."""
    sources = {}
    for folder in arguments.data:
        paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
        sources[str(folder)] = [read_image(path) for path in paths[: arguments.photographs]]
    for number in arguments.rendered:
        pictures = (
            render_picture(set_number=number, size=arguments.size, index=index)[0]
            for index in range(RENDERED)
        )
        sources[f"rendered zipper {number}"] = [picture.astype(np.float32) / 255 for picture in pictures]
    return sources


def random_motion(
    rng: np.random.Generator, size: tuple[int, int], *, shift: float, degrees: float
) -> np.ndarray:
    """Rotation about the centre, then a shift by up to `shift` of each side."""
    height, width = size
    x, y = rng.uniform(-shift, shift, 2) * (width, height)
    return compose(translation(x, y), rotation(rng.uniform(-degrees, degrees), size))


def errors(found: np.ndarray, expected: np.ndarray, size: tuple[int, int]) -> tuple[float, float, float]:
    """RMS over the view and the farthest corner in pixels, and degrees, between two affines."""
    x, y = np.meshgrid(np.linspace(0, size[1] - 1, GRID), np.linspace(0, size[0] - 1, GRID))
    points = np.stack([x.ravel(), y.ravel(), np.ones(x.size)])
    distance = np.hypot(*((found - expected) @ points)).reshape(GRID, GRID)
    turned = abs(angle(compose(invert(expected), found)))
    return float(np.sqrt((distance**2).mean())), float(distance[:: GRID - 1, :: GRID - 1].max()), turned


def measure(
    photographs: Sequence[np.ndarray], registration: Registration, arguments: argparse.Namespace
) -> dict[str, Any]:
    """Align `cases` warped copies, photograph by photograph in turn."""
    rng = np.random.default_rng(arguments.seed)
    originals = [registration.align(photograph) for photograph in photographs]
    rows, accepted, seconds = [], [], []
    for case in range(arguments.cases):
        photograph = photographs[case % len(photographs)]
        size = photograph.shape[:2]
        motion = random_motion(rng, size, shift=arguments.shift, degrees=arguments.degrees)
        copy = cv2.warpAffine(
            photograph, motion, size[::-1], flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE
        )
        start = time.perf_counter()
        alignment = registration.align(copy.clip(0, 1))
        seconds.append(time.perf_counter() - start)
        original = originals[case % len(photographs)]
        accepted.append(alignment.accepted and original.accepted)
        rows.append(errors(compose(invert(motion), alignment.matrix), original.matrix, registration.size_))
    rms, corner, degrees = np.array(rows).T
    return {
        "cases": arguments.cases,
        "found": float((np.array(accepted) & (rms <= PIXELS) & (degrees <= DEGREES)).mean()),
        "accepted": float(np.mean(accepted)),
        "rms_median": float(np.median(rms)),
        "rms_p99": float(np.percentile(rms, 99)),
        "corner_p99": float(np.percentile(corner, 99)),
        "degrees_median": float(np.median(degrees)),
        "degrees_p99": float(np.percentile(degrees, 99)),
        "ms_median": 1000 * float(np.median(seconds)),
    }


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, nargs="*", default=[], help="folders of photographs of one part each"
    )
    parser.add_argument("--rendered", type=int, nargs="*", default=[], help="numbers of rendered zipper sets")
    parser.add_argument("--size", type=int, nargs=2, default=(1600, 1200), help="width and height of those")
    parser.add_argument("--photographs", type=int, default=RENDERED, help="photographs used of a folder")
    parser.add_argument("--method", choices=("phase", "ecc", "features"), default="ecc")
    parser.add_argument("--motion", choices=("euclidean", "affine"), default="euclidean")
    parser.add_argument("--cases", type=int, default=200)
    parser.add_argument("--shift", type=float, default=0.1, help="largest shift, of each side")
    parser.add_argument("--degrees", type=float, help="largest rotation; 15, or 180 with features")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, help="JSON file to write")
    arguments = parser.parse_args()
    if not arguments.data and not arguments.rendered:
        parser.error("expected --data or --rendered")
    if arguments.degrees is None:
        arguments.degrees = {"phase": 0.0, "ecc": 15.0, "features": 180.0}[arguments.method]
    arguments.size = tuple(arguments.size)
    return arguments


def main() -> None:
    arguments = parsed()
    results = []
    print(f"{'source':<32}{'method':<10}{'cases':>6}" + "".join(f"{name:>16}" for name in FIGURES))
    for source, photographs in photographs_of(arguments).items():
        registration = Registration(method=arguments.method, motion=arguments.motion).fit(photographs)
        row = {"source": source, "method": arguments.method} | measure(photographs, registration, arguments)
        results.append(row)
        figures = "".join(f"{row[name]:>16.4f}" for name in FIGURES)
        print(f"{source[-30:]:<32}{arguments.method:<10}{arguments.cases:>6}{figures}", flush=True)
    if arguments.out:
        settings = {name: value for name, value in vars(arguments).items() if name not in ("data", "out")}
        arguments.out.write_text(json.dumps({"settings": settings, "results": results}, indent=2))


if __name__ == "__main__":
    main()
