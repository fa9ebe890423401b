"""`anomalib-lite-export`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from omegaconf import DictConfig

from anomalib_lite.console import main
from anomalib_lite.exporting.export import export
from anomalib_lite.exporting.parity import as_table
from anomalib_lite.run import set_threads


def export_command(arguments: Sequence[str] | None = None) -> int:
    """`anomalib-lite-export`, with the command line's arguments unless others are given; returns the exit code."""
    return main("export", export_bundle, arguments)


def export_bundle(cfg: DictConfig) -> None:
    """Write an export of a bundle; see `anomalib_lite.exporting.export`."""
    threads = set_threads(cfg.threads)
    bundle = Path(str(cfg.bundle))
    output = bundle.resolve().parent / str(cfg.format) if cfg.output is None else Path(str(cfg.output))
    images = None if cfg.images is None else Path(str(cfg.images))
    parities = export(bundle, output, format=str(cfg.format), images=images, threads=threads)
    print(f"{as_table(parities)}\nlargest differences to the bundle, both in float32\nexport: {output}")
