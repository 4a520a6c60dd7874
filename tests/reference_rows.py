"""The readable specification of one row's problem, for every loss: dense float64 loops over all pairs.

It is written from the objective alone, and finds minima from values of the objective alone: it shares neither
code nor derivatives with the kernels.
"""

from __future__ import annotations

import math

import numpy as np


class RowReference:
    """The objective of one row, as a function of its vector."""

    def __init__(self, columns, values, weights, fixed_vectors, constant, regularization, loss):
        self.columns, self.values = list(columns), [float(v) for v in values]
        self.weights = [1.0] * len(self.values) if weights is None else [float(w) for w in weights]
        self.fixed, self.constant = np.asarray(fixed_vectors, np.float64), constant
        self.regularization, self.loss = regularization, loss

    def score(self, vector, column):
        """Constant, both biases, and the product of the factors."""
        other = self.fixed[column]
        if not self.regularization.biases:
            return self.constant + vector @ other
        return self.constant + vector[-1] + other[-1] + vector[:-1] @ other[:-1]

    def observed(self, vector):
        """Loss of the observations."""
        total = 0.0
        for column, value, weight in zip(self.columns, self.values, self.weights, strict=True):
            score = self.score(vector, column)
            if self.loss.name == "squared":
                total += weight * (value - score) ** 2
            elif self.loss.name == "ials":
                total += weight * ((value > 0) - score) ** 2
            elif self.loss.name == "implicit":
                confidence = 1 + self.loss.alpha * weight * abs(value)
                total += confidence * ((value > 0) - score) ** 2 - score**2
            else:
                probability = 1 / (1 + math.exp(-score))
                total -= 2 * weight * (value * math.log(probability) + (1 - value) * math.log(1 - probability))
        return total

    def unobserved(self, vector):
        """The term of every pair."""
        weight = {"squared": self.loss.unobserved_weight, "ials": self.loss.unobserved_weight, "implicit": 1.0}
        return weight.get(self.loss.name, 0.0) * sum(self.score(vector, j) ** 2 for j in range(len(self.fixed)))

    def penalty(self, vector):
        """The regularisation."""
        degree = len(self.columns)
        if self.loss.name in ("squared", "ials"):
            degree += self.loss.unobserved_weight * len(self.fixed)
        scale = degree**self.regularization.reg_exponent
        factors = vector[:-1] if self.regularization.biases else vector
        total = self.regularization.reg_param * scale * float(factors @ factors)
        return total + (
            self.regularization.bias_reg_param * scale * vector[-1] ** 2 if self.regularization.biases else 0
        )

    def objective(self, vector):
        """Return all three together."""
        vector = np.asarray(vector, np.float64)
        return self.observed(vector) + self.unobserved(vector) + self.penalty(vector)

    def gradient(self, vector, step=1e-5):
        """Central differences of the objective."""
        steps = step * np.eye(len(vector))
        return np.array([(self.objective(vector + e) - self.objective(vector - e)) / (2 * step) for e in steps])

    def minimum(self):
        """Minimise: the second differences of a quadratic are its matrix; Newton's method for the other loss."""
        width = self.fixed.shape[1]
        vector = np.zeros(width)
        for _ in range(1 if self.loss.name != "logistic" else 30):
            step = 1.0 if self.loss.name != "logistic" else 1e-3
            unit = step * np.eye(width)
            here = self.objective(vector)
            alone = np.array([self.objective(vector + e) for e in unit])
            matrix = np.array([[self.objective(vector + e + f) for f in unit] for e in unit])
            matrix = (matrix - alone[:, None] - alone[None, :] + here) / step**2
            slope = self.gradient(vector, 1.0 if self.loss.name != "logistic" else 1e-5)
            vector = vector - np.linalg.solve(matrix, slope)
        return vector
