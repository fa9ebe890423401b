"""Runs an export without torch, timm, lightning, hydra or scikit-learn: `python -m anomalib_lite.runtime`."""
