"""A new cut for a trained bundle from new good parts, without training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import DictConfig
from tqdm import tqdm

from anomalib_lite import __version__
from anomalib_lite.bundle import MANIFEST, derive_bundle
from anomalib_lite.calibration import CalibrationRecord, calibration_card
from anomalib_lite.console import main
from anomalib_lite.data.images import list_images, read_image
from anomalib_lite.detector import Detector
from anomalib_lite.report.figures import percent_range
from anomalib_lite.report.verdict import proportion_interval
from anomalib_lite.scoring.threshold import ConformalThreshold, Threshold, threshold_from_state
from anomalib_lite.stages import digest, file_digest
from anomalib_lite.types import GOOD, InputError

log = logging.getLogger(__name__)

MOSTLY = 0.5  # of the new parts rejected by the old cut: they may be its false rejects and nothing else


@dataclass(frozen=True, kw_only=True)
class Recalibrated:
    """What a recalibration has changed.

    Args:
        bundle: the new one.
        before, after: the rule as it was and as it is, fitted.
        parts: new good parts that set the cut.
        rejected: how many of them the old cut rejects.
        excluded: pictures that could not be used, with the reason.
    """

    bundle: Path
    before: Threshold
    after: Threshold
    parts: int
    rejected: int
    excluded: list[tuple[Path, str]]

    def text(self) -> str:
        """For the console."""
        low_high = percent_range(proportion_interval(self.rejected, self.parts))
        return (
            f"old cut: {self.before.raw_cut:.6g} ({self.before.guarantee_})\n"
            f"new cut: {self.after.raw_cut:.6g} ({self.after.guarantee_})\n"
            f"the old cut rejects {self.rejected} of these {self.parts} good parts: "
            f"{100 * self.rejected / self.parts:.1f} % (95 % interval {low_high})\n"
            f"bundle: {self.bundle}"
        )


def recalibrate_command(arguments: Sequence[str] | None = None) -> int:
    """`anomalib-lite-recalibrate`: returns the exit code."""
    return main("recalibrate", _recalibrate, arguments)


def _recalibrate(cfg: DictConfig) -> None:
    # with Lightning and all: not for those who only call `recalibrate`
    from anomalib_lite.run import set_threads

    set_threads(cfg.threads)
    output = None if cfg.output is None else Path(str(cfg.output))
    done = recalibrate(Path(str(cfg.bundle)), Path(str(cfg.source)), output, alpha=cfg.alpha)
    print(done.text())


def recalibrate(bundle: Path, source: Path, output: Path | None, *, alpha: float | None) -> Recalibrated:
    """Set the bundle's cut anew, by its own rule, from good parts, and write it as another bundle.

    The guarantee asks for parts as they come, neither trained on nor chosen by their verdict: a folder of false
    rejects alone gives a cut that is too high, one of accepted parts alone a cut that is too low. Nobody can tell from
    the bundle whether a picture was trained on.

    Args:
        bundle: stays as it is.
        source: a folder of pictures, or one with a folder `good` of them in it.
        output: the new bundle's folder, which must not exist; None: beside the old one, with the date.
        alpha: of the conformal rule; None: the bundle's.

    Raises:
        InputError: for a rule without calibration, too few parts for the rule, more pictures that cannot be used than
            ones that can, and an output that exists or cannot be written. Nothing is written then.
    """
    output = _free_output(bundle, output)
    detector = Detector.load(bundle)
    before = detector.threshold
    after = _unfitted(bundle, before, alpha)
    if detector.calibration is None:
        raise InputError(f"{bundle}: written before bundles kept their calibration; train again")
    paths = list_images(source / GOOD if (source / GOOD).is_dir() else source)
    record, digests, excluded = _score(detector, paths)
    for path, reason in excluded:
        log.warning("excluded: %s: %s", path, reason)
    if len(excluded) > len(digests):
        path, reason = excluded[0]
        raise InputError(
            f"{source}: expected pictures of good parts, cannot use {len(excluded)} of {len(paths)}, "
            f"for instance {path.name}: {reason}"
        )
    new = np.array(record.scores)
    after.fit(new, np.array(record.validation_scores))
    labels = before.label(new)
    assert labels is not None  # a rule that is calibrated has a cut
    done = Recalibrated(
        bundle=output,
        before=before,
        after=after,
        parts=len(digests),
        rejected=int(labels.sum()),
        excluded=excluded,
    )
    changes = {
        "threshold": after.state(),
        "calibration": record.state(),
        "card": detector.card | _card(detector.card, bundle, digests, done),
    }
    derive_bundle(bundle, _free_output(bundle, output), changes)  # scoring may have taken long
    if done.rejected > MOSTLY * done.parts:
        log.warning(
            "the old cut rejects most of these parts; were they chosen for that, the new cut is too high: "
            "recalibration needs good parts as they come"
        )
    return done


def _free_output(bundle: Path, output: Path | None) -> Path:
    if output is None:
        whole = bundle.resolve()
        output = whole.with_name(f"{whole.name}-recalibrated-{date.today().isoformat()}")
    if output.exists() or output.is_symlink():
        raise InputError(f"{output}: exists; a bundle is never overwritten, take another output=")
    if output.resolve().is_relative_to(bundle.resolve()):
        raise InputError(f"{output}: expected a folder outside of the old bundle, which would be damaged")
    return output


def _unfitted(bundle: Path, before: Threshold, alpha: float | None) -> Threshold:
    """The bundle's own rule, to be fitted anew."""
    if not before.uses_calibration:
        raise InputError(
            f"{bundle}: threshold={before.rule} is not set by calibration parts, there is nothing to recalibrate"
        )
    state = before.state()
    if alpha is not None:
        if not isinstance(before, ConformalThreshold):
            raise InputError(f"{bundle}: alpha={alpha} is for threshold=conformal, this is {before.rule}")
        if isinstance(alpha, bool) or not isinstance(alpha, int | float):
            raise InputError(f"alpha must be a number between 0 and 1, got {alpha!r}")
        ConformalThreshold(alpha=alpha)  # its own message for one that is out of range
        state["settings"] |= {"alpha": alpha}
    return threshold_from_state(state)


def _score(
    detector: Detector, paths: Sequence[Path]
) -> tuple[CalibrationRecord, list[str], list[tuple[Path, str]]]:
    """What calibration sees of each picture, with the old validation scores; digests of the used files; the others."""
    seen: dict[str, Path] = {}
    excluded: list[tuple[Path, str]] = []
    scores, errors, qualities = [], [], []
    for path in tqdm(paths, desc="scoring", unit="part", disable=None):
        try:
            photograph = read_image(path)
            own = file_digest(path)
            prediction = detector.predict(photograph, path)
        except InputError as error:
            excluded.append((path, str(error).removeprefix(f"{path}: ")))
            continue
        if own in seen:  # one part counts once, or the rule would think that it knows more than it does
            excluded.append((path, f"the same file as {seen[own].name}"))
            continue
        if not prediction.alignment.accepted:  # also where such parts are scored all the same
            excluded.append((path, prediction.rejected or f"not aligned: {prediction.alignment.reason}"))
            continue
        seen[own] = path
        scores.append(prediction.raw_score)
        errors.append(prediction.error)
        qualities.append(float(prediction.alignment.quality))
    assert detector.calibration is not None
    known = [error for error in errors if error is not None]
    record = CalibrationRecord(
        scores=scores,
        errors=None if detector.calibration.errors is None else known,
        qualities=qualities,
        validation_scores=detector.calibration.validation_scores,
    )
    return record, list(seen), excluded


def _card(card: dict[str, Any], bundle: Path, digests: Sequence[str], done: Recalibrated) -> dict[str, Any]:
    """What the new bundle says of itself beside what the old one did."""
    earlier = card.get("calibration")
    normals = dict(earlier.get("normals", {})) if isinstance(earlier, dict) else {}
    now = datetime.now().astimezone().isoformat(timespec="seconds")
    return {
        "recalibrated": now,
        "recalibrated_from": f"manifest SHA-256 {file_digest(bundle / MANIFEST)}",
        "recalibrated with": f"anomalib-lite {__version__}",
        "recalibration data hash": digest(sorted(digests)),
        "old cut": done.before.raw_cut,
        "new cut": done.after.raw_cut,
        "calibration": calibration_card(
            normals=normals | {"calibration": done.parts},
            threshold=done.after,
            rejected=0,  # the parts that set the cut cannot say what it does to others
            judged=0,
            interval=None,
        ),
    }
