"""Registers the value objects' dataclasses with Hydra: the dataclass is the schema of its config group."""

from __future__ import annotations

from hydra.core.config_store import ConfigStore

from anomalib_lite.data.augmentation import Augmentation
from anomalib_lite.data.datamodule import Roles
from anomalib_lite.data.pasting import Corruption
from anomalib_lite.data.patches import PatchGrid
from anomalib_lite.scoring.classifiers import CLASSIFIERS
from anomalib_lite.scoring.method import Scoring
from anomalib_lite.scoring.postprocess import PostProcess
from anomalib_lite.scoring.scaler import Scaler
from anomalib_lite.scoring.similarity import Similarity
from anomalib_lite.scoring.threshold import RULES


def register_schemas() -> None:
    """Make every schema known to Hydra under `<group>/<name>_schema`; twice does no harm."""
    store = ConfigStore.instance()
    store.store(group="grid", name="schema", node=PatchGrid)
    store.store(group="roles", name="schema", node=Roles)
    store.store(group="scoring", name="schema", node=Scoring)
    store.store(group="scaler", name="schema", node=Scaler)
    store.store(group="similarity", name="schema", node=Similarity)
    store.store(group="corruption", name="schema", node=Corruption)
    store.store(group="augmentation", name="schema", node=Augmentation)
    for name, classifier in CLASSIFIERS.items():
        store.store(group="classifier", name=f"{name}_schema", node=classifier)
    store.store(group="postprocess", name="schema", node=PostProcess)
    for name, rule in RULES.items():
        store.store(group="threshold", name=f"{name}_schema", node=rule)
