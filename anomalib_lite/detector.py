"""The fitted chain: photograph -> registered picture -> error map -> embedding -> score -> verdict.

Training, video, export and the baselines share this one object; it needs no Trainer.
"""

from __future__ import annotations

import hashlib
import math
import sys
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from torch import Tensor, nn

from anomalib_lite.baselines import DeepFeatures, NearestNeighbour, Variation
from anomalib_lite.bundle import join_parts, part_of, read_bundle, write_bundle
from anomalib_lite.calibration import CalibrationRecord
from anomalib_lite.data.carrying import carry
from anomalib_lite.data.pictures import to_tensor
from anomalib_lite.data.preparation import Preparation
from anomalib_lite.data.resize import resize
from anomalib_lite.inspector import judge, not_aligned
from anomalib_lite.metrics import PixelMetrics
from anomalib_lite.models.model import Images, Model
from anomalib_lite.models.positional_memory import PositionalMemory
from anomalib_lite.models.reconstruction import Mapped, PatchAutoencoder
from anomalib_lite.scoring.anomaly_map import mean_square, top_mean
from anomalib_lite.scoring.classifiers import OneClassClassifier, classifier_from_state
from anomalib_lite.scoring.embedding import Embedder
from anomalib_lite.scoring.method import Scoring
from anomalib_lite.scoring.postprocess import PostProcess
from anomalib_lite.scoring.scaler import Scaler
from anomalib_lite.scoring.similarity import Similarity
from anomalib_lite.scoring.threshold import Threshold, threshold_from_state
from anomalib_lite.stages import PictureStore, code_digest, versions
from anomalib_lite.types import Alignment, InputError, Prediction

LEAST_CUT = 1 / 255  # one grey level, or a hundredth of what is usual
MODELS = {
    model.name: model
    for model in (PatchAutoencoder, DeepFeatures, NearestNeighbour, Variation, PositionalMemory)
}


class Scored(NamedTuple):
    """What the chain computes for one registered picture."""

    raw_score: float
    anomaly_map: np.ndarray | None  # (H, W) float32
    embedding: np.ndarray | None  # (D,) float32
    mapped: Mapped


class Drawn(NamedTuple):
    """A validation normal as it is, or with a drawn defect."""

    image: Tensor  # (1, 3, H, W)
    mask: np.ndarray  # (H, W) bool, where the defect is
    original: Tensor  # (1, 3, H, W), without the defect


class Detector:
    """Fits and applies the chain that follows registration and the network's training.

    Args:
        preparation: fitted; registers, crops and downsizes photographs.
        model: gives error maps; an autoencoder comes trained.
        scoring: how a map becomes a score.
        embedder, scaler, classifier: used by `scoring.method=embedding` only.
        similarity: used by `scoring.method=similarity` only.
        postprocess: error -> anomaly map and the pixel cut.
        threshold: the image rule.
        on_not_aligned: whether a photograph that could not be aligned is rejected unseen or scored all the same.
    """

    def __init__(
        self,
        *,
        preparation: Preparation,
        model: Model,
        scoring: Scoring,
        embedder: Embedder | None,
        scaler: Scaler,
        classifier: OneClassClassifier,
        similarity: Similarity,
        postprocess: PostProcess,
        threshold: Threshold,
        on_not_aligned: Literal["reject", "score"] = "reject",
    ) -> None:
        if on_not_aligned not in ("reject", "score"):
            raise InputError(f"on_not_aligned must be reject or score, got {on_not_aligned!r}")
        self.preparation, self.model, self.scoring = preparation, model, scoring
        self.embedder, self.scaler, self.classifier = embedder, scaler, classifier
        self.similarity = similarity
        self.postprocess, self.threshold, self.on_not_aligned = postprocess, threshold, on_not_aligned
        if scoring.method == "reconstruction_probability":
            if not isinstance(model, PatchAutoencoder):
                raise InputError(
                    f"scoring=reconstruction_probability needs a network with a probability (vae), got {model.name}"
                )
            model.use_probability(scoring.samples)
        if scoring.method == "similarity" and isinstance(model, DeepFeatures | Variation | PositionalMemory):
            raise InputError(f"scoring=similarity needs a model that reconstructs, got {model.name}")
        if scoring.method == "map" and not self.localises:
            raise InputError(f"scoring=map needs a model that compares pictures, got {model.name}")
        self.gain_ = 1.0
        self.usual_: Tensor | None = None
        self.usual_count_ = 0  # pictures that it was learned from; not kept in a bundle
        self.learned_tau_: float | None = None
        self.card: dict[str, Any] = {}  # where a loaded bundle comes from
        self.calibration: CalibrationRecord | None = None
        self.device = torch.device("cpu")
        self._maps, self._embeddings = PictureStore(None, {}), PictureStore(None, {})

    @property
    def localises(self) -> bool:
        """Whether the model gives anomaly maps."""
        return not isinstance(self.model, DeepFeatures)

    @property
    def tau_(self) -> float | None:
        """The pixel cut: the one that was given, else the one that was learned."""
        return self.learned_tau_ if self.postprocess.tau is None else self.postprocess.tau

    @property
    def mm_per_pixel(self) -> float | None:
        """The photograph's scale; None: unknown."""
        return self.postprocess.mm_per_pixel

    @property
    def raw_cut(self) -> float | None:
        """The raw score above which a part is rejected; None without a cut."""
        return self.threshold.raw_cut

    def to(self, device: torch.device) -> Self:
        """Move the networks to a device."""
        self.device = device
        if isinstance(self.model, nn.Module):
            self.model.to(device).eval()
            self.usual_ = None if self.usual_ is None else self.usual_.to(device)
        elif isinstance(self.model, PositionalMemory):
            self.model.to(device)
        if self.embedder is not None:
            self.embedder.to(device)
        return self

    def remember(self, folder: Path | None) -> Self:
        """Keep maps and embeddings below `folder` and take what is there from now on; None: compute everything.

        For a trained network, on its device. Raises nothing: where nothing can be kept, everything is computed.
        """
        self._maps = self._embeddings = PictureStore(None, {})
        kept = {"device": self.device.type, "versions": versions()}
        if isinstance(self.model, PatchAutoencoder):
            arrays, settings = self.model.state()
            weights = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in arrays.items()}
            facts = {"weights": weights, "settings": settings, "samples": self.model.samples}
            facts |= {"code": code_digest("models", "data/patches.py", "data/resize.py")}
            self._maps = PictureStore(folder and folder / "maps", kept | facts)
        if self.embedder is not None:
            _, settings = self.embedder.state()
            facts = {"settings": settings, "code": code_digest("scoring/embedding.py")}
            self._embeddings = PictureStore(folder and folder / "embeddings", kept | facts)
        return self

    @property
    def remembered(self) -> int:
        """How often something was there already."""
        return self._maps.found + self._embeddings.found

    def check(self, size: tuple[int, int]) -> Self:
        """Post-process an empty map of `size` (h, w): what does not fit together is known before training.

        Raises:
            InputError: for a kernel larger than the map, or a step that needs what the model does not give.
        """
        if self.localises:
            predicts = isinstance(self.model, PatchAutoencoder) and self.model.predicts_error()
            error, predicted_error = torch.zeros((1, 3, *size)), torch.zeros((1, 1, *size))
            self.postprocess(error, None, predicted_error if predicts else None)
        return self

    def fit(self, train_normals: Images) -> Self:
        """Learn contrast, scale and neighbours from registered training pictures (1, 3, H, W).

        `train_normals` is gone through several times; it must start anew each time.
        """
        self.model.learn(train_normals)
        if self.scoring.method == "embedding":
            self.gain_ = self._learn_contrast(train_normals)
            embeddings = self._embed_all(train_normals)
            self.classifier.fit(self.scaler.fit(embeddings).transform(embeddings, out=embeddings))
        return self

    def _embed_all(self, train_normals: Images) -> np.ndarray:
        """Embeddings (n, D), written in place: a list of rows and their stack would hold all of them twice."""
        embeddings = np.empty((0, 0), np.float32)
        for row, image in enumerate(train_normals):
            embedding = self._embed(self.map(image))
            if row == 0:
                embeddings = np.empty((len(train_normals), len(embedding)), np.float32)
            embeddings[row] = embedding
        return embeddings

    def _learn_contrast(self, train_normals: Iterable[Tensor]) -> float:
        if not self.scoring.contrast:
            return 1.0
        largest = [float(self.map(image).error.max()) for image in train_normals]
        return 1 / max(float(np.median(largest)), 1e-6)

    def calibrate(
        self, *, calibration: Iterable[Tensor], validation: Iterable[Tensor], qualities: Sequence[float]
    ) -> Self:
        """Set the image cut from calibration normals; the score's scale and the map's from validation normals.

        `qualities` are those of the calibration normals' registration.
        """
        if self.localises and self.postprocess.relative:
            self.usual_, self.usual_count_ = self._learn_usual(validation)
        # numbers only: the maps of a thousand pictures would fill the memory
        scores, cuts = [], []
        of_peaks = self.postprocess.tau_from == "normal_peaks"
        for image in validation:
            scored = self.score(image, usual=self.usual_for_others(image))
            scores.append(scored.raw_score)
            if scored.anomaly_map is not None:
                found = scored.anomaly_map
                # or one normal pixel in 1000 is above it
                cuts.append(found.max() if of_peaks else np.quantile(found, 0.999))
        held_out, errors = [], []
        for image in calibration:
            scored = self.score(image)
            held_out.append(scored.raw_score)
            errors.append(mean_error(scored.mapped))
        self.calibration = CalibrationRecord(
            scores=held_out,
            errors=errors if self.localises else None,
            qualities=[float(quality) for quality in qualities],
            validation_scores=scores,
        )
        self.threshold.fit(np.array(held_out), np.array(scores))
        if cuts:
            # where nearly everything was removed, the quantile is 0, above which every speck would lie
            learned = np.quantile(cuts, 0.9) if of_peaks else np.median(cuts)
            self.learned_tau_ = max(float(learned), LEAST_CUT)
        return self

    def learn_tau(self, drawn: PixelMetrics) -> Self:
        """Learn the pixel cut with the best F1 score on validation normals with drawn defects and without."""
        best = drawn.best_tau()
        if best is not None:
            self.learned_tau_ = max(best, LEAST_CUT)
        return self

    def _learn_usual(self, validation: Iterable[Tensor]) -> tuple[Tensor, int]:
        """Mean reduced error (1, 1, h, w) of so many pictures."""
        total, count = torch.zeros(()), 0
        for image in validation:
            total, count = total + self.postprocess.reduce(self.map(image).low_error), count + 1
        if count == 0:
            raise InputError("postprocess.relative=true needs validation normals, found none")
        return total / count, count

    def usual_for_others(self, image: Tensor) -> Tensor | None:
        """What is usual without a validation normal (1, 3, H, W): with it, the picture would look too usual itself."""
        if self.usual_ is None or self.usual_count_ < 2:
            return self.usual_
        own = self.postprocess.reduce(self.map(image).low_error)
        return (self.usual_ * self.usual_count_ - own) / (self.usual_count_ - 1)

    def score(self, image: Tensor, *, usual: Tensor | None = None) -> Scored:
        """Score one registered picture (1, 3, H, W); `usual` is for pictures that the usual error was learned from."""
        return self.finish(self.map(image), usual=usual)

    def finish(self, mapped: Mapped, *, usual: Tensor | None = None) -> Scored:
        """From the error (1, 3, H, W) of one picture to its raw score: one at a time, whatever the batch."""
        usual = self.usual_ if usual is None else usual
        anomaly_map = self._anomaly_map(mapped, usual) if self.localises else None
        if self.scoring.method == "map":
            return Scored(self._reduced(mapped, anomaly_map), anomaly_map, None, mapped)
        if self.scoring.method == "reconstruction_probability":
            return Scored(float(mapped.low_error.mean()), anomaly_map, None, mapped)
        if self.scoring.method == "similarity":
            return Scored(self._dissimilarity(mapped), anomaly_map, None, mapped)
        embedding = self.scaler.transform(self._embed(mapped)[None])
        return Scored(float(self.classifier.score(embedding)[0]), anomaly_map, embedding[0], mapped)

    def _reduced(self, mapped: Mapped, anomaly_map: np.ndarray | None) -> float:
        if self.scoring.reduction == "mean_square":
            return float(mean_square(mapped.low_error))
        assert anomaly_map is not None  # refused above
        if self.scoring.reduction == "top_mean":
            return top_mean(anomaly_map, share=self.scoring.top_share)
        return float(anomaly_map.max())

    def _dissimilarity(self, mapped: Mapped) -> float:
        assert mapped.low_image is not None  # refused above
        assert mapped.low_reconstruction is not None
        return self.similarity(mapped.low_image, mapped.low_reconstruction)

    def _anomaly_map(self, mapped: Mapped, usual: Tensor | None) -> np.ndarray:
        small = self.postprocess(mapped.low_error, usual, mapped.predicted_error)
        return resize(small, (mapped.error.shape[-2], mapped.error.shape[-1]))[0, 0].cpu().numpy()

    def map(self, image: Tensor) -> Mapped:
        """The error of one registered picture (1, 3, H, W), as the model gives it or gave it earlier."""
        if not isinstance(self.model, PatchAutoencoder):
            return self.model.map(image)  # these give maps in plain memory
        model, image = self.model, image.to(self.device)
        if self._maps.folder is None:
            return model.map(image)
        found = self._maps.get(
            image, lambda: {name: tensor.cpu().numpy() for name, tensor in model.reconstruct(image).items()}
        )
        return model.compare(image, {name: torch.from_numpy(a).to(self.device) for name, a in found.items()})

    def _embed(self, mapped: Mapped) -> np.ndarray:
        if self.embedder is None:
            raise InputError("scoring=embedding needs an embedding, got none")
        embedder, contrasted = self.embedder, (mapped.error.to(self.device) * self.gain_).clamp(0, 1)
        return self._embeddings.get(contrasted, lambda: {"embedding": embedder(contrasted)[0].cpu().numpy()})[
            "embedding"
        ]

    def predict(self, photograph: np.ndarray, path: Path) -> Prediction:
        """Judge a photograph (H0, W0, 3) float32 in [0, 1]."""
        picture, alignment = self.preparation(photograph)
        if not alignment.accepted and self.on_not_aligned == "reject":
            return not_aligned(path, alignment)
        return self.judge(self.score(to_tensor(picture)), path, alignment)

    def judge(self, scored: Scored, path: Path, alignment: Alignment) -> Prediction:
        """The verdict on a scored picture."""
        return judge(
            path=path,
            alignment=alignment,
            raw_score=scored.raw_score,
            anomaly_map=scored.anomaly_map,
            error=mean_error(scored.mapped) if self.localises else None,
            threshold=self.threshold,
            tau=self.tau_,
            rule=self.postprocess.mask_rule,
        )

    def carry(
        self, anomaly_map: np.ndarray, alignment: Alignment, size: tuple[int, int]
    ) -> tuple[np.ndarray, np.ndarray | None]:
        """A registered picture's map (H0, W0) and mask, None without a pixel cut, in the photograph's pixels `size`."""
        rule = self.postprocess.mask_rule
        return carry(self.preparation, anomaly_map, alignment, size, tau=self.tau_, rule=rule)

    def save(self, folder: Path, *, card: dict[str, Any]) -> None:
        """Write the bundle: everything needed to predict on another machine; `card` says where it comes from.

        Raises:
            InputError: where it cannot be written.
        """
        parts = {"preparation": self.preparation.state(), "model": self.model.state()}
        if self.usual_ is not None:
            parts["usual"] = ({"error": self.usual_.cpu().numpy()}, {})
        if self.scoring.method == "embedding" and self.embedder is not None:
            parts |= {
                "embedder": self.embedder.state(),
                "scaler": self.scaler.state(),
                "classifier": self.classifier.state(),
            }
        arrays = join_parts({part: arrays for part, (arrays, _) in parts.items()})
        settings = {
            "model": self.model.name,
            "parts": {part: settings for part, (_, settings) in parts.items()},
            "scoring": asdict(self.scoring),
            "similarity": asdict(self.similarity),
            "gain": self.gain_,
            "postprocess": asdict(self.postprocess),
            "tau": self.learned_tau_,
            "threshold": self.threshold.state(),
            "on_not_aligned": self.on_not_aligned,
            "calibration": None if self.calibration is None else self.calibration.state(),
            "card": card,
        }
        write_bundle(folder, arrays, settings)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """The detector that `save` wrote; builds only what the tables of names know.

        Raises:
            InputError: for anything but a whole bundle of this format.
        """
        arrays, settings = read_bundle(folder)
        try:
            return cls._from_settings(arrays, settings)._try()
        except InputError as error:
            raise InputError(f"{folder}: {error}") from None
        except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RuntimeError) as error:
            reason = str(error).partition("\n")[0][:200]  # torch adds a trace
            raise InputError(
                f"{folder}: expected a bundle's settings, found {type(error).__name__}: {reason}"
            ) from None

    @classmethod
    def _from_settings(cls, arrays: dict[str, np.ndarray], settings: dict[str, Any]) -> Self:
        def state(part: str) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
            return part_of(arrays, part), settings["parts"][part]

        if settings["model"] not in MODELS:
            raise InputError(f"bundle: model must be one of {', '.join(MODELS)}, got {settings['model']!r}")
        embeds = "embedder" in settings["parts"]
        detector = cls(
            preparation=Preparation.from_state(*state("preparation")),
            model=MODELS[settings["model"]].from_state(*state("model")),
            scoring=Scoring(**settings["scoring"]),
            embedder=Embedder.from_state(*state("embedder")) if embeds else None,
            scaler=Scaler.from_state(*state("scaler")) if embeds else Scaler(),
            classifier=classifier_from_state(*state("classifier")) if embeds else None,  # type: ignore[arg-type]
            similarity=Similarity(**settings["similarity"]),
            postprocess=PostProcess(**settings["postprocess"]),
            threshold=threshold_from_state(settings["threshold"]),
            on_not_aligned=settings["on_not_aligned"],
        )
        detector.gain_ = _number(settings, "gain")
        detector.learned_tau_ = None if settings["tau"] is None else _number(settings, "tau")
        if "usual" in settings["parts"]:
            usual, expected = arrays["usual.error"], (1, 1, *settings["parts"]["model"]["downsize"])
            if usual.shape != expected:
                raise InputError(f"bundle: usual error must have shape {expected}, got {usual.shape}")
            detector.usual_ = torch.from_numpy(usual)
        if settings.get("calibration") is not None:  # bundles from before it was kept have none
            detector.calibration = CalibrationRecord.from_state(settings["calibration"])
        if not isinstance(settings["card"], dict):
            raise InputError(f"bundle: card must be an object, got {settings['card']!r:.80}")
        detector.card = settings["card"]
        return detector

    def _try(self) -> Self:
        """Score a black picture: what does not fit together is known before the first part."""
        height, width = self.preparation.size_
        scored = self.score(torch.zeros((1, 3, height, width)))
        if not math.isfinite(scored.raw_score):
            raise InputError(f"bundle: expected a finite score of a black picture, got {scored.raw_score}")
        return self


def _number(settings: dict[str, Any], key: str) -> float:
    """A finite number of a bundle's settings, 0 or more: float() would take text, such as "nan"."""
    value = settings[key]
    if not isinstance(value, int | float) or not 0 <= value <= sys.float_info.max:
        raise InputError(f"bundle: {key} must be a finite number, 0 or more, got {value!r:.80}")
    return float(value)


def mean_error(mapped: Mapped) -> float:
    """Mean error of one picture at the model's own resolution."""
    return float(mapped.low_error.mean())
