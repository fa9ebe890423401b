"""Tells a drift monitor of every part that was accepted, and people when things have changed."""

from __future__ import annotations

import logging
from typing import Any, Protocol

from anomalib_lite.drift import DriftMonitor
from anomalib_lite.inspector import Examined, Inspector
from anomalib_lite.types import InputError

log = logging.getLogger(__name__)


class Monitor(Protocol):
    """What looks for drift: `drift.DriftMonitor`."""

    def update(self, *, raw_score: float, error: float | None, quality: float) -> dict[str, Any]:
        """Take in a part that was accepted; what is known of drift, as JSON values."""

    def known(self) -> dict[str, Any]:
        """What `update` last gave, or what there is to say before."""

    def summary(self) -> dict[str, Any]:
        """All that is known, for a plot."""

    def state(self) -> dict[str, Any]:
        """What a monitor needs to go on later."""


class DriftWatch:
    """Holds a monitor, or none.

    Args:
        monitor: None: nothing is watched.
    """

    def __init__(self, monitor: Monitor | None) -> None:
        self.monitor = monitor
        self.known: dict[str, Any] | None = None if monitor is None else monitor.known()

    def take(self, examined: Examined) -> dict[str, Any] | None:
        """What is known after this part; None without a monitor.

        The log says it where drift is found for the first time.
        """
        prediction = examined.prediction
        # one that was not aligned and scored all the same is not what calibration has seen
        if self.monitor is None or examined.verdict != "good" or not prediction.alignment.accepted:
            return self.known
        before = bool(self.known and self.known["drifted"])
        self.known = self.monitor.update(
            raw_score=prediction.raw_score, error=prediction.error, quality=prediction.alignment.quality
        )
        if self.known["drifted"] and not before:
            log.warning("drift: %s", self.known["advice"])
        return self.known


def make_monitor(inspector: Inspector, *, window: object, false_alarms: object) -> DriftMonitor | None:
    """What compares accepted parts with the calibration set; None where it is turned off or lacks one.

    Raises InputError for settings out of range.
    """
    if window is None:
        return None
    if isinstance(window, bool) or not isinstance(window, int) or window < 2:
        raise InputError(f"drift.window must be a whole number, 2 or more, or null, got {window}")
    if isinstance(false_alarms, bool) or not isinstance(false_alarms, int | float):
        raise InputError(f"drift.false_alarms must be a number, got {false_alarms}")
    if inspector.calibration is None:
        log.warning(
            "drift: this bundle does not hold what calibration has seen; recalibrate.py makes one that does"
        )
        return None
    threshold = inspector.threshold
    # a cut that threshold.value has raised lets parts through which the fitted one would not
    cuts = [cut for cut in (threshold.cut_, threshold.raw_cut) if cut is not None]
    monitor = DriftMonitor(
        inspector.calibration,
        min(cuts, default=None),
        window=window,
        false_alarms=false_alarms,
    )
    if monitor.obstacle:
        log.warning("drift: %s", monitor.obstacle)
    return monitor
