"""What known fields of users would be worth beside those of items: on MovieLens 100K, by the kernels alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.datasets import movielens, movielens_folds
from benchmarks.feature_models import FACTORS, FEW_RATINGS, MAP, film_features
from benchmarks.kernel_fits import ITEMS, USERS, fit_by_kernels, side_information
from benchmarks.peer_models import Ratings
from recsys_spark.config import TrainConfig
from recsys_spark.kernels.factor_map import fit_factor_map
from recsys_spark.kernels.pair_scores import pair_scores
from recsys_spark.train import Factorization

Float64Array = npt.NDArray[np.float64]
FEW_RATINGS_OF_A_USER = 20
# Penalties of the users' map, beside 10 of the items'; and of the interactions of fields and features.
PENALTIES = (10.0, 30.0, 100.0, 300.0)
# The best of them, and how many ratings are left to the users who are taken for new ones, a fifth of all at a time.
BEST_PENALTY, RATINGS_LEFT, SEED = 300.0, (0, 1, 2, 5, 10), 0
ITEMS_PENALTY, POPULATION_PENALTY, USERS_PENALTY, BIAS_PENALTY = 10.0, 10.0, 8.0, 3.0


def user_fields(folder: Path) -> npt.NDArray[np.float32]:
    """Return age (standardised), gender and occupation of the users."""
    users = [line.split("|") for line in (folder / "u.user").read_text().splitlines()]
    ages = np.array([float(user[1]) for user in users])
    jobs, place = np.unique([user[3] for user in users], return_inverse=True)
    columns = [(ages - ages.mean()) / ages.std(), np.array([user[2] == "F" for user in users], float)]
    return np.column_stack([*columns, np.eye(len(jobs))[place]]).astype(np.float32)


def errors_with_user_fields(folder: Path) -> dict[str, tuple[float, float, float]]:
    """Return RMSE by model, mean of folds: of all test ratings, and of those of films, and users, with few ratings."""
    films, fields = film_features(folder).dense(), user_fields(folder)
    found: dict[str, list[list[float]]] = {}
    for training, test in movielens_folds(folder):
        predicted = {"feature regression": regression(training, test, films, fields, None)}
        predicted["side information"] = factorization(training, test, films, None, 0.0)
        # A constant in place of the fields: the users' mean vector, which they are drawn towards.
        constant = np.zeros((len(fields), 0), np.float32)
        predicted["side information, mean of the users"] = factorization(training, test, films, constant, 100.0)
        for penalty in PENALTIES:
            predicted[f"feature regression, fields {penalty:g}"] = regression(training, test, films, fields, penalty)
            name = f"side information, fields {penalty:g}"
            predicted[name] = factorization(training, test, films, fields, penalty)
        of_items = np.bincount(training.items, minlength=training.n_items)[test.items]
        of_users = np.bincount(training.users, minlength=training.n_users)[test.users]
        for name, scores in predicted.items():
            squares = (np.clip(scores, 1.0, 5.0) - test.values) ** 2
            parts = (squares, squares[of_items < FEW_RATINGS], squares[of_users < FEW_RATINGS_OF_A_USER])
            found.setdefault(name, []).append([float(np.sqrt(part.mean())) for part in parts])
    return {name: tuple(np.mean(rows, axis=0).tolist()) for name, rows in found.items()}


def factorization(
    training: Ratings,
    test: Ratings,
    films: npt.NDArray[np.float32],
    fields: npt.NDArray[np.float32] | None,
    users_penalty: float,
) -> Float64Array:
    """Predict by a factorization with side information of the items, and of the users where fields are given."""
    config = TrainConfig.model_validate(FACTORS)
    told = {ITEMS: (films, ITEMS_PENALTY)} | ({} if fields is None else {USERS: (fields, users_penalty)})
    model = fit_by_kernels(training, config, told)
    users = model.user_vectors.copy()
    if fields is not None:
        side = side_information(fields, model.user_degrees, config, users_penalty)
        new = model.user_degrees == 0
        users[new] = side.expected(users)[new]
    return pair_scores(users[test.users], with_new_films(model, films)[test.items], model.global_mean, True)


def with_new_films(model: Factorization, films: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the films' vectors, with what the features say of those without ratings."""
    items, degrees = model.item_vectors.copy(), model.item_degrees
    new, known = degrees == 0, degrees >= MAP.min_ratings
    items[new] = fit_factor_map(films[known], items[known], MAP.reg_param).vectors(films[new])
    return items


def errors_of_new_users(folder: Path) -> dict[str, list[float]]:
    """Return RMSE by model for users who have kept few of their ratings: one number for each of `RATINGS_LEFT`.

    A fifth of the users at a time keep so many random ratings in training; their others are the test.
    """
    films, fields, ratings = film_features(folder).dense(), user_fields(folder), movielens(folder)
    rng = np.random.default_rng(SEED)
    part_of_user, order = rng.permutation(ratings.n_users) % 5, rng.permutation(len(ratings.users))
    by_user = order[np.argsort(ratings.users[order], kind="stable")]
    first = np.searchsorted(ratings.users[by_user], np.arange(ratings.n_users))
    place = np.empty(len(order), np.int64)
    place[by_user] = np.arange(len(order)) - first[ratings.users[by_user]]
    constant = np.zeros((len(fields), 0), np.float32)
    found: dict[str, list[float]] = {}
    for left in RATINGS_LEFT:
        squares: dict[str, list[Float64Array]] = {}
        for part in range(5):
            is_held_out = (part_of_user[ratings.users] == part) & (place >= left)
            training, test = ratings.where(~is_held_out), ratings.where(is_held_out)
            predicted = {
                "feature regression": regression(training, test, films, fields, None),
                "feature regression, fields": regression(training, test, films, fields, BEST_PENALTY),
                "side information": factorization(training, test, films, None, 0.0),
                "side information, mean of the users": factorization(training, test, films, constant, 100.0),
                "side information, fields": factorization(training, test, films, fields, BEST_PENALTY),
            }
            for name, scores in predicted.items():
                squares.setdefault(name, []).append((np.clip(scores, 1.0, 5.0) - test.values) ** 2)
        for name, errors in squares.items():
            found.setdefault(name, []).append(float(np.sqrt(np.concatenate(errors).mean())))
    return found


def regression(
    training: Ratings,
    test: Ratings,
    films: npt.NDArray[np.float32],
    fields: npt.NDArray[np.float32],
    fields_penalty: float | None,
) -> Float64Array:
    """Predict by every user's regression, drawn towards a population's whose weights depend on the users' fields."""
    mean = float(training.values.mean())
    centred = training.values - mean
    x = np.column_stack([films, np.ones(len(films))])
    z = np.column_stack([np.ones(len(fields)), fields if fields_penalty is not None else fields[:, :0]])
    pairs = (z[training.users][:, :, None] * x[training.items][:, None, :]).reshape(len(centred), -1)
    penalties = np.full(pairs.shape[1], fields_penalty or 0.0)
    penalties[: x.shape[1]] = POPULATION_PENALTY
    population = np.linalg.solve(pairs.T @ pairs + np.diag(penalties), pairs.T @ centred)
    weights = z @ population.reshape(z.shape[1], x.shape[1])
    ridge = np.diag([USERS_PENALTY] * films.shape[1] + [BIAS_PENALTY])
    order = np.argsort(training.users, kind="stable")
    for own in np.split(order, np.searchsorted(training.users[order], np.arange(1, training.n_users))):
        if len(own):
            user, design = training.users[own[0]], x[training.items[own]]
            left = centred[own] - design @ weights[user]
            weights[user] += np.linalg.solve(design.T @ design + ridge, design.T @ left)
    return mean + (weights[test.users] * x[test.items]).sum(axis=1)
