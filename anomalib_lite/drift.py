"""Whether the parts of today still look like the ones that set the cut; imports nothing heavy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any, Self

import numpy as np

from anomalib_lite.calibration import CalibrationRecord
from anomalib_lite.drift_spans import Span, check_numbers, check_whole, thinned
from anomalib_lite.two_sample import two_sample_p_value
from anomalib_lite.types import InputError

WORDS = {
    "raw_score": "raw score",
    "error": "reconstruction error",
    "registration_quality": "registration quality",
}


class DriftMonitor:
    """Compares accepted parts, window by window, with the accepted ones of the calibration set.

    Each window of `window` parts is compared once, apart from all others, in raw score, reconstruction error and
    registration quality, by the exact two-sample test of Kolmogorov and Smirnov (Hodges, Arkiv för Matematik 3, 1958);
    equal values make it stricter, never looser. The window alarms where a p-value times the number of statistics
    (Bonferroni) is at most `false_alarms * window`. So while nothing drifts, there are at most `false_alarms` alarms
    a part on average, however long it watches and however few calibration parts there were: every window's chance is
    bounded, and expectations add up, dependent or not. The average is over calibration sets as well, as with the
    conformal cut: an unlucky set alarms more often.

    Acceptance cuts the scores off. Below the largest calibration score t that is not above the cut, calibration parts
    and new ones follow the same law, given t, for a cut that is an order statistic of the calibration scores
    (conformal), lies between two (quantile) or was not learned from them (fixed, f1). So only parts below t are
    compared, and the part that gave t is left out. Where `threshold.value` raises a cut, give the one before it.

    Parts must be exchangeable: several frames of the same part, or parts that come in batches, alarm more often.

    Args:
        reference: what the calibration parts were.
        cut: the raw score up to which parts are accepted; None: all are.
        window: parts compared at once; more of them show smaller changes, later.
        false_alarms: a part, at most, on average: 1e-5 is one in 100,000 parts.

    Raises:
        InputError: for settings out of range.

    >>> reference = CalibrationRecord(
    ...     scores=[float(i) for i in range(40)], errors=None, qualities=[1.0] * 40, validation_scores=[1.0])
    >>> monitor = DriftMonitor(reference, cut=36.0, window=20, false_alarms=1e-4)
    >>> for part in range(20):
    ...     known = monitor.update(raw_score=30 + part / 10, error=None, quality=1.0)
    >>> known["drifted"], known["statistic"], known["since"], f"{known['p_value']:.0e}"
    (True, 'raw_score', 20, '3e-09')
    """

    def __init__(
        self, reference: CalibrationRecord, cut: float | None, *, window: int, false_alarms: float
    ) -> None:
        if cut is not None and not math.isfinite(cut):
            raise InputError(f"drift: the cut must be a finite number or null, got {cut}")
        if window < 2:
            raise InputError(f"drift: window must be at least 2 parts, got {window}")
        if not 0 < false_alarms * window < 1:
            raise InputError(
                f"drift: false_alarms must be above 0 and below 1 / window = {1 / window:g}, got {false_alarms}"
            )
        self.reference, self.cut = reference, cut
        self.window, self.false_alarms = window, false_alarms
        below = [score for score in reference.scores if cut is None or score <= cut]
        # given the largest one and how many there are, the others are independent draws from below it
        self.limit = math.inf if cut is None else max(below, default=-math.inf)
        kept = np.array(reference.scores) < self.limit
        columns = {
            "raw_score": reference.scores,
            "error": reference.errors,
            "registration_quality": reference.qualities,
        }
        self._reference = {
            name: np.sort(np.array(values, float)[kept])
            for name, values in columns.items()
            if values is not None
        }
        self.parts = 0  # accepted ones seen
        self.alarms = 0  # windows that alarmed
        self._pending: list[list[float]] = []
        self._pending_from = 1
        self._spans: list[Span] = []
        self._latest: dict[str, Any] = {"drifted": None, "statistic": None, "p_value": None}
        self._drifted_from: int | None = None
        self.obstacle = self._find_obstacle()

    def _find_obstacle(self) -> str:
        """Why no window could ever alarm; empty if one could."""
        m = len(self._reference["raw_score"])
        # the largest distance is between samples that do not overlap: two of all orders of their values
        orders = math.lgamma(m + self.window + 1) - math.lgamma(m + 1) - math.lgamma(self.window + 1)
        smallest = min(1.0, 2 * len(self._reference) * math.exp(-orders))
        if smallest <= self.false_alarms * self.window:
            return ""
        return (
            f"cannot tell: {m} calibration parts below the cut are too few for windows of {self.window} parts "
            f"at {self.false_alarms:g} false alarms a part"
        )

    def update(self, *, raw_score: float, error: float | None, quality: float) -> dict[str, Any]:
        """Take in a part that was accepted; what is known now, as plain JSON values.

        Returns:
            `drifted`: of the latest full window; None before there is one, or where nothing could be told.
            `statistic`: the one that differs most. `p_value`: the smallest, corrected. `since`: accepted parts since
            the start of the first of the windows in a row that alarmed; 0 without drift. `parts`: accepted ones so
            far. `advice`: a sentence, empty if there is nothing to do.

        Raises:
            InputError: for a number that is not finite, or an error that calibration did not know, or lacks.
        """
        given = {"raw_score": raw_score, "error": error, "registration_quality": quality}
        values = [given[name] for name in self._reference]
        if (error is None) != (self.reference.errors is None):
            raise InputError(f"drift: expected an error as calibration had it, got {error}")
        if any(value is None or not math.isfinite(value) for value in values):
            raise InputError(f"drift: expected finite numbers of an accepted part, got {given}")
        self.parts += 1
        if raw_score < self.limit and not self.obstacle:
            if not self._pending:
                self._pending_from = self.parts
            self._pending.append([float(value) for value in values if value is not None])
            if len(self._pending) == self.window:
                self._compare()
        return self.known()

    def known(self) -> dict[str, Any]:
        """What `update` last gave."""
        since = 0 if self._drifted_from is None else self.parts - self._drifted_from + 1
        return self._latest | {"since": since, "parts": self.parts, "advice": self._advice()}

    def _compare(self) -> None:
        window = dict(zip(self._reference, np.array(self._pending).T, strict=True))
        level = self.false_alarms * self.window
        p_values = {
            name: min(1.0, len(window) * two_sample_p_value(self._reference[name], np.sort(values)))
            for name, values in window.items()
        }
        worst = min(p_values, key=lambda name: p_values[name])
        drifted = p_values[worst] <= level
        self._latest = {"drifted": drifted, "statistic": worst, "p_value": p_values[worst]}
        self.alarms += drifted
        if not drifted:
            self._drifted_from = None
        elif self._drifted_from is None:
            self._drifted_from = self._pending_from
        self._spans.append(
            Span(
                first=self._pending_from,
                last=self.parts,
                count=self.window,
                means={name: float(values.mean()) for name, values in window.items()},
                deviations={name: float(values.std()) for name, values in window.items()},
                alarms={name: int(p <= level) for name, p in p_values.items()},
                p_value=p_values[worst],
            )
        )
        self._spans = thinned(self._spans)
        self._pending = []

    def _advice(self) -> str:
        if self.obstacle:
            return self.obstacle
        if self._latest["drifted"] is not True:
            return ""
        name = self._latest["statistic"]
        now, then = self._spans[-1], self._reference[name]
        return (
            f"recalibrate: the {WORDS[name]} of the last {self.window} accepted parts is not the calibration set's "
            f"({now.means[name]:.4g} ± {now.deviations[name]:.2g}, was {then.mean():.4g} ± {then.std():.2g}; "
            f"p = {self._latest['p_value']:.1g}); look at parts, light and camera first"
        )

    def summary(self) -> dict[str, Any]:
        """What the plot shows, as plain JSON values: a bounded number of spans, the older ones longer."""
        return {
            "parts": self.parts,
            "window": self.window,
            "false_alarms": self.false_alarms,
            "alarms": self.alarms,
            "reference": {
                name: {"count": len(values), "mean": float(values.mean()), "deviation": float(values.std())}
                for name, values in self._reference.items()
                if len(values)
            },
            "spans": [asdict(span) for span in self._spans],
            "known": self.known(),
        }

    # --- going on after a restart

    def state(self) -> dict[str, Any]:
        """All of it as plain JSON values; `from_state` reads it."""
        return {
            "reference": self.reference.state(),
            "cut": self.cut,
            "window": self.window,
            "false_alarms": self.false_alarms,
            "parts": self.parts,
            "alarms": self.alarms,
            "pending": [list(values) for values in self._pending],
            "pending_from": self._pending_from,
            "spans": [asdict(span) for span in self._spans],
            "latest": dict(self._latest),
            "drifted_from": self._drifted_from,
        }

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """A monitor that goes on where `state` was taken; raises InputError for anything else."""
        try:
            monitor = cls(
                CalibrationRecord.from_state(state["reference"]),
                None if state["cut"] is None else float(state["cut"]),
                window=check_whole(state["window"]),
                false_alarms=float(state["false_alarms"]),
            )
            monitor._restore(state)
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
            raise InputError(f"not the state of a drift monitor: {error}") from None
        return monitor

    def resumed(self, state: Mapping[str, Any]) -> Self:
        """The monitor of `state` where it compares with the same calibration set at the same settings, else this one.

        Raises InputError as `from_state` does.
        """
        earlier = self.from_state(state)
        same = all(
            getattr(earlier, name) == getattr(self, name)
            for name in ("reference", "cut", "window", "false_alarms")
        )
        return earlier if same else self

    def _restore(self, state: Mapping[str, Any]) -> None:
        names = list(self._reference)
        self.parts, self.alarms = check_whole(state["parts"]), check_whole(state["alarms"])
        self._pending_from = check_whole(state["pending_from"])
        self._pending = [check_numbers(values, len(names)) for values in state["pending"]]
        self._spans = Span.list_from_state(state["spans"], names)
        if not isinstance(state["pending"], list) or len(self._pending) >= self.window:
            raise ValueError(f"{len(self._pending)} parts pending of {self.window}")
        latest = state["latest"]
        if latest["drifted"] is None:
            kept: dict[str, Any] = {"drifted": None, "statistic": None, "p_value": None}
        elif latest["drifted"] in (True, False) and latest["statistic"] in names and self._spans:
            (p_value,) = check_numbers([latest["p_value"]], 1)
            kept = {"drifted": bool(latest["drifted"]), "statistic": latest["statistic"], "p_value": p_value}
        else:
            raise ValueError(f"latest={latest!r:.80}")
        self._latest = kept
        start = state["drifted_from"]
        self._drifted_from = None if start is None else check_whole(start)
        if (self._drifted_from is None) == bool(kept["drifted"]):
            raise ValueError(f"drifted_from={start!r:.40} of latest={latest!r:.80}")
