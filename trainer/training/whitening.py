"""Features in which how films without a finding differ is scaled down, within collections and between them.

(I + S / a)^-1/2 with S the mean over collections (each counts alike) of the covariance of such films, plus the
covariance of their means. Within-class covariance normalisation, Hatch et al. 2006; nuisance attribute projection,
Solomonoff et al. 2005; regularised discriminant analysis, Friedman 1989.
"""

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Whitening:
    """(I + S / a)^-1/2 as the identity plus a few directions: x + (x @ axes * factors) @ axes.T."""

    axes: np.ndarray  # [F, k], orthonormal
    factors: np.ndarray  # [k], in -1..0

    def __call__(self, features: np.ndarray) -> np.ndarray:
        """Features [N, F], or weights [K, F], whitened: the transform is symmetric."""
        return features + (features @ self.axes * self.factors) @ self.axes.T


def fit_whitening(features: np.ndarray, collections: np.ndarray, strength: float) -> Whitening:
    """The whitening by films without a finding: standardised features [N, F] of collections [N]; `strength` is a."""
    names = sorted(set(collections))
    parts, means = [], []
    for name in names:
        own = features[collections == name]
        means.append(own.mean(axis=0))
        parts.append((own - means[-1]) / np.sqrt(len(own) * len(names)))
    parts.append((np.stack(means) - np.mean(means, axis=0)) / np.sqrt(len(names)))
    root = np.concatenate(parts)  # S = root.T @ root
    few = len(root) < root.shape[1]
    values, vectors = np.linalg.eigh(root @ root.T if few else root.T @ root)
    kept = values > 1e-6 * values.max()
    values, axes = values[kept], vectors[:, kept]
    axes = root.T @ axes / np.sqrt(values) if few else axes
    return Whitening(axes, 1 / np.sqrt(1 + values / strength) - 1)
