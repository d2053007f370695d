"""How alike features are, by the formula."""

from __future__ import annotations

import numpy as np


def feature_space_cka(x, y):
    """|Y'X|^2 / (|X'X| |Y'Y|): the formula as the paper has it."""
    x, y = (values - values.mean(0) for values in (x.astype(np.float64), y.astype(np.float64)))
    return np.linalg.norm(y.T @ x) ** 2 / (np.linalg.norm(x.T @ x) * np.linalg.norm(y.T @ y))
