"""From a source as the user names it to judged parts: pictures, a folder, a watched folder, a video, a camera."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from anomalib_lite.data.rendered.belt_video import belt_video, frame_truth, truth_path
from anomalib_lite.data.video import FrameReader, WatchedFolder, is_stream, open_source
from anomalib_lite.drift import DriftMonitor
from anomalib_lite.drift_watch import make_monitor
from anomalib_lite.frame_metrics import frame_metrics, read_verdicts
from anomalib_lite.inspection import inspect
from anomalib_lite.inspector import Inspector
from anomalib_lite.report.drift_plot import write_drift
from anomalib_lite.report.files import replace_file
from anomalib_lite.stream_files import LINES, judged_paths, saved_drift
from anomalib_lite.streaming import inspect_stream
from anomalib_lite.types import InputError

log = logging.getLogger(__name__)

FRAME_METRICS = "frame_metrics.json"
BELT = "belt"  # the source that is rendered here


def inspect_source(inspector: Inspector, cfg: DictConfig, output: Path) -> dict[str, int]:
    """Judge what `cfg.source` names and write the results into `output`; how many parts had which verdict.

    Raises InputError for a source that can't be read, and for results that can't be written.
    """
    source = str(cfg.source)
    if source == BELT and not Path(source).exists():
        return _inspect_belt(inspector, cfg, output)
    if cfg.watch and not Path(source).is_dir():
        raise InputError(f"source={source}: expected a folder to watch (watch=true), found none")
    if cfg.watch or is_stream(source):
        return _inspect_frames(inspector, source, cfg, output)
    monitor = make_monitor(inspector, window=cfg.drift.window, false_alarms=cfg.drift.false_alarms)
    counts = inspect(
        inspector,
        Path(source),
        output,
        pictures=cfg.overlays,
        on_bad_image=cfg.on_bad_image,
        lines=cfg.lines,
        monitor=monitor,
    )
    _draw(monitor, output)
    return counts


def _inspect_frames(inspector: Inspector, source: str, cfg: DictConfig, output: Path) -> dict[str, int]:
    seen = {Path(path).name for path in judged_paths(output)} if cfg.watch else set()
    opened = open_source(source, poll_s=cfg.poll_s, seen=seen)
    live = opened.live or isinstance(opened, WatchedFolder)
    monitor = make_monitor(inspector, window=cfg.drift.window, false_alarms=cfg.drift.false_alarms)
    earlier = saved_drift(output) if live else None
    if monitor is not None and earlier is not None:
        monitor = monitor.resumed(earlier)
    with FrameReader(opened, policy=cfg.policy, size=cfg.queue) as reader:
        summary = inspect_stream(
            inspector,
            reader,
            output,
            source=source,
            lines=cfg.lines,
            append=live,
            video=cfg.overlays,
            frames_per_second=None,
            monitor=monitor,
            progress=sys.stderr,
        )
    if opened.note:
        log.warning("%s: %s", opened.name, opened.note)
    _draw(monitor, output)
    return dict(summary.verdicts)


def _inspect_belt(inspector: Inspector, cfg: DictConfig, output: Path) -> dict[str, int]:
    """Judge the rendered belt, of which it is known what each frame shows."""
    print(
        "source=belt: a rendered conveyor belt, for model=cae data=belt; your own: source=...",
        file=sys.stderr,
    )
    video = belt_video(Path(cfg.outputs) / "rendered")
    counts = _inspect_frames(inspector, str(video), cfg, output)
    if cfg.lines == "file":
        found = frame_metrics(frame_truth(truth_path(video)), read_verdicts(output / LINES))
        replace_file(output / FRAME_METRICS, json.dumps(found, indent=2).encode() + b"\n")
        print(_in_words(found))
    return counts


def _in_words(found: Mapping[str, Any]) -> str:
    def percent(name: str) -> str:
        return "none" if found[name] is None else f"{100 * found[name]:.1f} %"

    return (
        f"frames: recall {percent('frame_recall')}, precision {percent('frame_precision')}, "
        f"anomalies found in one of their frames: {found['passings_found']} of {found['passings']}"
    )


def _draw(monitor: DriftMonitor | None, output: Path) -> None:
    summary = None if monitor is None else monitor.summary()
    if summary is not None and summary["spans"]:
        write_drift(summary, output / "drift.png")
