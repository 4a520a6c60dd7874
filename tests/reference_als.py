"""The readable specification: alternating least squares in dense float64 loops.

Slow on purpose, and written from the model alone: it shares no code with the kernels it checks.
"""

from __future__ import annotations

import numpy as np


def penalty_of_row(degree, width, reg_param, bias_reg_param, reg_exponent, biases):
    """Diagonal of one row's penalty matrix."""
    diagonal = np.full(width, reg_param * max(degree, 1) ** reg_exponent, dtype=np.float64)
    if biases:
        diagonal[width - 1] = bias_reg_param * max(degree, 1) ** reg_exponent
    return diagonal


def design_and_target(columns, values, fixed_vectors, global_mean, biases):
    """Design matrix Z and target t of one row, one observation at a time."""
    width = fixed_vectors.shape[1]
    design = np.zeros((len(columns), width))
    target = np.zeros(len(columns))
    for place, (column, value) in enumerate(zip(columns, values, strict=True)):
        design[place] = fixed_vectors[column]
        target[place] = float(value) - global_mean
        if biases:
            target[place] -= float(fixed_vectors[column, width - 1])
            design[place, width - 1] = 1.0
    return design, target


def row_objective(vector, design, target, diagonal):
    """Squared error and penalty of one row."""
    error = 0.0
    for z, t in zip(design, target, strict=True):
        error += (t - z @ vector) ** 2
    return error, float(np.sum(diagonal * vector**2))


def row_gradient(vector, design, target, diagonal):
    """Half the gradient of one row's objective."""
    return design.T @ (design @ vector - target) + diagonal * vector


def solve_side(observations, n_rows, fixed_vectors, global_mean, reg):
    """Solve every row of one side exactly; ``observations`` are (row, column, value) triples.

    ``reg`` is (reg_param, bias_reg_param, reg_exponent, biases). A row without observations is zero.
    """
    width = fixed_vectors.shape[1]
    vectors = np.zeros((n_rows, width))
    for row in range(n_rows):
        own = [(c, v) for r, c, v in observations if r == row]
        if not own:
            continue
        columns, values = zip(*own, strict=True)
        design, target = design_and_target(columns, values, fixed_vectors, global_mean, reg[3])
        diagonal = penalty_of_row(len(own), width, *reg)
        vectors[row] = np.linalg.solve(design.T @ design + np.diag(diagonal), design.T @ target)
    return vectors


def full_objective(observations, user_vectors, item_vectors, global_mean, reg):
    """Objective of the whole model: squared error, and the penalties of both sides."""
    biases = reg[3]
    factors = slice(0, user_vectors.shape[1] - int(biases))
    error = 0.0
    for user, item, value in observations:
        score = global_mean + user_vectors[user, factors] @ item_vectors[item, factors]
        if biases:
            score += user_vectors[user, -1] + item_vectors[item, -1]
        error += (value - score) ** 2
    total = error
    for place, vectors in ((0, user_vectors), (1, item_vectors)):
        for index, vector in enumerate(vectors):
            degree = sum(1 for observation in observations if observation[place] == index)
            if degree:
                total += float(np.sum(penalty_of_row(degree, len(vector), *reg) * vector**2))
    return total


def alternate(observations, user_vectors, item_vectors, global_mean, reg, n_iterations):
    """Run alternating least squares: users first, then items. Returns both sides and the objectives."""
    objectives = []
    flipped = [(item, user, value) for user, item, value in observations]
    for _ in range(n_iterations):
        user_vectors = solve_side(observations, len(user_vectors), item_vectors, global_mean, reg)
        item_vectors = solve_side(flipped, len(item_vectors), user_vectors, global_mean, reg)
        objectives.append(full_objective(observations, user_vectors, item_vectors, global_mean, reg))
    return user_vectors, item_vectors, objectives
