"""The folder of a sweep's job, named by what the job was asked to do."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

# where results go, how they are logged and how fast they come: another value of these is no other job
NO_OTHER_JOB = ("cache", "hydra", "logger", "outputs", "report", "resume", "sweep", "sweep_name", "threads")
LONGEST = 100  # characters of the readable part; file systems take 255 bytes


def key_of(override: str) -> str:
    """The key of an override as Hydra's grammar has it, with its `+` or `~`.

    >>> key_of("+trainer.fast_dev_run=true"), key_of("~logger")
    ('+trainer.fast_dev_run', '~logger')
    """
    return override.partition("=")[0]


def swept_overrides(overrides: Sequence[str], fixed: Collection[str]) -> list[str]:
    """A job's overrides, less the keys that are the same in every job of its sweep and those that make no other job.

    >>> swept_overrides(["data=belt", "model.latent_dim=16", "threads=1"], ["data"])
    ['model.latent_dim=16']
    """
    return [override for override in _relevant(overrides) if key_of(override) not in fixed]


def job_folder_name(overrides: Sequence[str], fixed: Collection[str] = ()) -> str:
    """A job's folder inside its sweep's: the swept overrides, made safe and short, and a digest of all of them.

    Neither the order of the overrides nor the job's number matters. Keys in `fixed` are left out of the readable part.

    >>> job_folder_name(["data=belt", "model.latent_dim=16", "outputs=/tmp"], fixed=["data"])
    'model.latent_dim=16-77a9484a'
    """
    readable = ",".join(sorted(swept_overrides(overrides, fixed))) or "job"
    safe = re.sub(r"[^\w.,=+~-]+", "_", readable, flags=re.ASCII)[:LONGEST]
    content = "\n".join(sorted(_relevant(overrides)))
    return f"{safe}-{hashlib.sha256(content.encode(errors='surrogateescape')).hexdigest()[:8]}"


def _relevant(overrides: Sequence[str]) -> list[str]:
    roots = {override: re.split(r"[.@/]", key_of(override).lstrip("+~"))[0] for override in overrides}
    return [override for override, root in roots.items() if root not in NO_OTHER_JOB]


def register_resolvers() -> None:
    """Make `${job_folder:...}`, `${half:...}`, `${category_or_folder:...}` known to OmegaConf; twice does no harm."""

    def folder(overrides: Any, fixed: Any) -> str:
        return job_folder_name([str(override) for override in overrides], {str(key) for key in fixed})

    OmegaConf.register_new_resolver("job_folder", folder, replace=True)

    def category_or_folder(category: str | None, root: str) -> str:
        return Path(root).resolve().name if category is None else category

    OmegaConf.register_new_resolver("half", lambda number: number // 2, replace=True)
    OmegaConf.register_new_resolver("category_or_folder", category_or_folder, replace=True)
