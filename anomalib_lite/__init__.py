"""Learns good parts from photographs of good parts only, then finds, scores and shows defects in new ones."""

__version__ = "0.1.0"
