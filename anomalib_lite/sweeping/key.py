"""What determines a job: a job with the same key has the same results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig

from anomalib_lite.building import backbone_weights, plain_value, value_object
from anomalib_lite.stages import code_digest, digest, file_digest, versions
from anomalib_lite.sweeping.folders import NO_OTHER_JOB


def job_settings(cfg: DictConfig) -> dict[str, Any]:
    """A job's resolved settings, less those that change no result: where it writes, how it logs, on which device it is.

    `data.source.folder` is left out as well: it is the output folder.
    """
    settings = {str(key): plain_value(cfg, str(key)) for key in cfg if key not in NO_OTHER_JOB}
    source = {key: value for key, value in settings["data"]["source"].items() if key != "folder"}
    settings["data"] = settings["data"] | {"source": source}
    devices = settings["trainer"]["devices"]
    if isinstance(devices, list):  # how many, not which
        settings["trainer"]["devices"] = len(devices)
    return settings


def job_key(cfg: DictConfig) -> str:
    """Digest of all that determines a job: settings, every file's content, the package's code, the versions.

    Renders a rendered set that is not there yet.

    Raises:
        InputError: where photographs or a backbone's weights can't be had.
    """
    files = [
        [
            sample.path.name,
            sample.split,
            sample.defect,
            file_digest(sample.path),
            None if sample.mask_path is None else file_digest(sample.mask_path),
        ]
        for sample in instantiate(cfg.data.source).samples()
    ]
    reference = None if cfg.data.reference is None else Path(cfg.data.reference)
    weights = backbone_weights(cfg)
    return digest(
        {
            "settings": job_settings(cfg),
            "files": files,
            # one that is not there is told by what reads it
            "reference": file_digest(reference) if reference is not None and reference.is_file() else None,
            "corruption": value_object(cfg.corruption).facts(),  # with the cut-outs' files
            "weights": None if weights is None else weights.sha256,
            "code": code_digest("."),
            "versions": versions(),
        }
    )
