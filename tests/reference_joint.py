"""The readable specification of the whole objective and of simultaneous gradient descent on it: dense, float64.

Written from the objective alone; derivatives are central differences of it.
"""

from __future__ import annotations

import numpy as np


class JointReference:
    """The objective of a model as a function of both sides' vectors, every user and item having observations."""

    def __init__(self, triples, weights, constant, regularization, loss):
        users, items, values = (np.array(column) for column in zip(*triples, strict=True))
        shape = (users.max() + 1, items.max() + 1)
        self.values, self.weights = np.zeros(shape), np.zeros(shape)
        self.values[users, items] = values
        self.weights[users, items] = 1.0 if weights is None else weights
        self.constant, self.regularization, self.loss = constant, regularization, loss
        self.all_pairs = 1.0 if loss.name == "implicit" else loss.unobserved_weight

    def scores(self, users, items):
        """Score every pair."""
        if not self.regularization.biases:
            return self.constant + users @ items.T
        return self.constant + users[:, :-1] @ items[:, :-1].T + users[:, -1:] + items[:, -1]

    def penalties(self, side):
        """Return the penalty of every entry of a side's vectors, for width 1 of factors and one of the bias."""
        own, other = (0, 1) if side == 0 else (1, 0)
        degrees = (self.weights > 0).sum(axis=other).astype(float)
        if self.loss.name != "implicit":
            degrees += self.all_pairs * self.values.shape[other]
        scale = degrees**self.regularization.reg_exponent
        assert len(scale) == self.values.shape[own]
        return self.regularization.reg_param * scale, self.regularization.bias_reg_param * scale

    def objective(self, users, items):
        """Return losses of the observations, term of all pairs and penalties, added."""
        scores, values, weights = self.scores(users, items), self.values, self.weights
        if self.loss.name == "squared":
            total = (weights * (values - scores) ** 2).sum()
        elif self.loss.name == "ials":
            total = (weights * ((values > 0) - scores) ** 2).sum()
        elif self.loss.name == "implicit":
            confidence = self.loss.alpha * weights * np.abs(values)
            observed = (1 + confidence) * ((values > 0) - scores) ** 2 - scores**2
            total = observed[weights > 0].sum()
        else:
            total = (2 * weights * (np.logaddexp(0, scores) - values * scores)).sum()
        total += self.all_pairs * (scores**2).sum()
        n_factors = users.shape[1] - self.regularization.biases
        for side, vectors in ((0, users), (1, items)):
            factors, biases = self.penalties(side)
            total += (factors[:, None] * vectors[:, :n_factors] ** 2).sum()
            total += (biases[:, None] * vectors[:, n_factors:] ** 2).sum()
        return total

    def gradients(self, users, items, step=1e-5):
        """Return central differences of the objective by both sides."""
        found = []
        for place in (0, 1):
            sides = [users.copy(), items.copy()]
            gradient = np.zeros_like(sides[place])
            for entry in np.ndindex(*gradient.shape):
                ends = []
                for sign in (1, -1):
                    moved = [side.copy() for side in sides]
                    moved[place][entry] += sign * step
                    ends.append(self.objective(*moved))
                gradient[entry] = (ends[0] - ends[1]) / (2 * step)
            found.append(gradient)
        return found

    def curvature_bounds(self, side, fixed):
        """Return twice the bound on each row's curvature while the other side stands still."""
        designs = np.array(fixed)
        if self.regularization.biases:
            designs[:, -1] = 1.0
        weights = self.weights
        if self.loss.name == "implicit":
            weights = self.loss.alpha * weights * np.abs(self.values)
        elif self.loss.name == "logistic":
            weights = weights / 4
        weights = weights if side == 0 else weights.T
        steepest = weights @ (designs**2).sum(axis=1)
        largest = np.maximum(*self.penalties(side)) if self.regularization.biases else self.penalties(side)[0]
        return 2 * (steepest + largest + np.linalg.norm(self.all_pairs * designs.T @ designs))

    def descend(self, users, items, lengths, n_steps):
        """Step both sides from the same old values, by the best of some multiples of each row's safe step.

        With momentum k / (k + 3) after k steps, which is dropped where the objective would rise.
        """
        objectives, now, before, age = [], (users, items), (users, items), 0
        for _ in range(n_steps):
            users, items = (v + age / (age + 3) * (v - w) for v, w in zip(now, before, strict=True))
            gradients = self.gradients(users, items)
            changes = [
                -gradient / self.curvature_bounds(side, fixed)[:, None]
                for side, (gradient, fixed) in enumerate(zip(gradients, (items, users), strict=True))
            ]
            reached = [self.objective(users + t * changes[0], items + t * changes[1]) for t in lengths]
            best = lengths[int(np.argmin(reached))]
            if age and min(reached) > objectives[-1]:
                before, age = now, 0
                objectives.append(objectives[-1])
                continue
            now, before, age = (users + best * changes[0], items + best * changes[1]), now, age + 1
            objectives.append(min(reached))
        return *now, objectives
