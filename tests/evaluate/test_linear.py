"""The linear models against scikit-learn, an independent implementation."""

import numpy as np
import pytest
import torch

from vidssl.evaluate.linear import Basis, fit_ridge, fit_softmax, scores, with_ones


def problem(n: int, d: int, classes: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(seed)
    y = rng.integers(0, classes, n)
    x = rng.normal(size=(n, d)) * rng.uniform(0.1, 10, d) + rng.normal(size=d)
    x[:, :classes] += 2 * np.eye(classes)[y]
    return torch.tensor(x), torch.tensor(y), torch.tensor(rng.normal(size=(30, d)))


def standardised(x: torch.Tensor, other: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    mean, std = x.mean(dim=0), x.std(dim=0, correction=0) * x.shape[1] ** 0.5
    return ((x - mean) / std).numpy(), ((other - mean) / std).numpy()


@pytest.mark.parametrize(("n", "d"), [(60, 20), (40, 300)])
def test_softmax_gives_the_probabilities_of_sklearn(n: int, d: int) -> None:
    from sklearn.linear_model import LogisticRegression

    x, y, new = problem(n, d, classes=3)
    rows = torch.ones(2, n, dtype=torch.float64)
    rows[1, : n // 3] = 0
    strengths = [0.1, 30.0]
    basis = Basis.fit(x, new)
    weights = fit_softmax(basis, y, 3, rows, torch.tensor(strengths, dtype=torch.float64), tolerance=1e-9)
    plain, plain_new = standardised(x, new)
    for p in range(2):
        inside = rows[p].bool().numpy()
        for number, strength in enumerate(strengths):
            model = LogisticRegression(C=strength, tol=1e-10, max_iter=5000).fit(plain[inside], y.numpy()[inside])
            got = scores(with_ones(basis.test), weights[p])[number].softmax(dim=-1).numpy()
            np.testing.assert_allclose(got, model.predict_proba(plain_new), atol=2e-5)


@pytest.mark.parametrize(("n", "d"), [(60, 20), (40, 300)])
def test_ridge_gives_the_predictions_of_sklearn(n: int, d: int) -> None:
    from sklearn.linear_model import Ridge

    x, _, new = problem(n, d, classes=2)
    targets = x[:, :2] + 1
    rows = torch.arange(n) % 4 > 0
    basis = Basis.fit(x, new)
    weights = fit_ridge(basis, targets, rows, torch.tensor([0.1, 100.0], dtype=torch.float64))
    plain, plain_new = standardised(x, new)
    for number, strength in enumerate([0.1, 100.0]):
        model = Ridge(alpha=1 / strength).fit(plain[rows.numpy()], targets[rows].numpy())
        got = (with_ones(basis.test) @ weights[number]).numpy()
        np.testing.assert_allclose(got, model.predict(plain_new), rtol=1e-6, atol=1e-6)


def test_features_without_spread_are_left_out() -> None:
    x = torch.cat([torch.randn(20, 3, dtype=torch.float64), torch.full((20, 2), 0.1, dtype=torch.float64)], dim=1)
    assert Basis.fit(x, x).train.shape == (20, 3)
    assert Basis.fit(x[:, 3:], x[:, 3:]).train.shape == (20, 0)
