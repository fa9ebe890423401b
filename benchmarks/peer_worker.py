"""A peer's method in the peer's own environment: reads a line of JSON for each thing asked, answers with one.

Run by `peer.py`; needs anomalib, which anomalib-lite does not. Its Torch modules are used as they are, without its
engine, which would only add to its times. Pictures are resized to a square, and normalised as the backbone wants it.
"""

from __future__ import annotations

import io
import json
import resource
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import cv2
import numpy as np
import torch
from anomalib.models.image.padim.torch_model import PadimModel
from anomalib.models.image.patchcore.torch_model import PatchcoreModel

NEIGHBOURS = 9
DIMENSIONS = 100  # as PaDiM's paper has it for a small backbone
BATCH = 8  # pictures, while fitting
LAYERS = {
    "patchcore": ["blocks.2", "blocks.4"],  # of strides 8 and 16
    "padim": ["blocks.1", "blocks.2", "blocks.4"],  # of strides 4, 8 and 16
}


class Peer:
    """One method, fitted or not."""

    def __init__(
        self,
        *,
        method: str,
        size: int,
        seed: int,
        share: float,
        threads: int,
        backbone: str,
        weights: str,
        mean: list[float],
        deviation: list[float],
    ) -> None:
        torch.set_num_threads(threads)
        cv2.setNumThreads(threads)
        torch.manual_seed(seed)
        self.size, self.share = size, share
        self.mean, self.deviation = torch.tensor(mean), torch.tensor(deviation)
        layers = LAYERS[method]
        if method == "patchcore":
            self.model: Any = PatchcoreModel(
                layers=layers, backbone=backbone, pre_trained=False, num_neighbors=NEIGHBOURS
            )
        else:
            self.model = PadimModel(
                layers=layers, backbone=backbone, pre_trained=False, n_features=DIMENSIONS
            )
        trunk = self.model.feature_extractor.feature_extractor
        missing, _ = trunk.load_state_dict(torch.load(weights, weights_only=True), strict=False)
        if missing:
            raise SystemExit(
                f"weights of {backbone}: {len(missing)} tensors are missing (first: {missing[0]})"
            )

    def fit(self, *, images: list[str]) -> dict[str, float]:
        """Learn from photographs; what it took."""
        start, processor = time.perf_counter(), time.process_time()
        self.model.train()
        self.model.feature_extractor.eval()
        with torch.no_grad():
            for first in range(0, len(images), BATCH):
                self.model(torch.cat([self._read(path)[0] for path in images[first : first + BATCH]]))
            if isinstance(self.model, PatchcoreModel):
                self.model.subsample_embedding(self.share)
            else:
                self.model.fit()
        self.model.eval()
        took = {
            "fitting_seconds": time.perf_counter() - start,
            "fitting_processor_seconds": time.process_time() - processor,
        }
        content = io.BytesIO()
        torch.save(self.model.state_dict(), content)
        return took | {
            "model_mb": len(content.getvalue()) / 1e6,
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        }

    def judge(self, *, image: str, map_file: str) -> dict[str, float]:
        """Score and map of one photograph; the map, in its own pixels, goes to a file after the clock is stopped."""
        start = time.perf_counter()
        picture, (height, width) = self._read(image)
        with torch.inference_mode():
            found = self.model(picture)
        anomaly_map = cv2.resize(found.anomaly_map[0, 0].numpy(), (width, height))
        score = float(found.pred_score)
        seconds = time.perf_counter() - start
        np.save(map_file, anomaly_map)
        return {"score": score, "seconds": seconds}

    def _read(self, path: str) -> tuple[torch.Tensor, tuple[int, int]]:
        photograph = cv2.imread(path)
        small = cv2.resize(photograph, (self.size, self.size), interpolation=cv2.INTER_AREA)
        picture = torch.from_numpy(cv2.cvtColor(small, cv2.COLOR_BGR2RGB)).float() / 255
        return ((picture - self.mean) / self.deviation).permute(2, 0, 1)[None], photograph.shape[:2]


def main() -> None:
    answers, sys.stdout = sys.stdout, sys.stderr  # nothing else may be between the lines
    settings = json.loads(sys.argv[1])
    peer = Peer(**settings)
    answers.write(json.dumps({"anomalib": version("anomalib"), "torch": torch.__version__}) + "\n")
    answers.flush()
    todo: dict[str, Callable[..., dict[str, float]]] = {"fit": peer.fit, "judge": peer.judge}
    for line in sys.stdin:
        asked = json.loads(line)
        answers.write(json.dumps(todo[asked.pop("do")](**asked)) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
