"""All the mathematics of the recommender, in NumPy alone.

No Spark, pandas, Arrow, input or output, clock or logging is reached from here, so every function can be
tested against a slow reference in milliseconds and behaves the same on a laptop and on an executor.

In the order of use:

* `csr_block`: one piece of the ratings, stored by row; grouping of observations by block.
* `initialization`: the first factors, from (seed, side, index) alone.
* `objective`: the one place that defines the loss and scales the regularisation.
* `fixed_side`: the other side's vectors, prepared for solving rows.
* `solve_rows`: one half-iteration of a block; `degree_ladder`, `row_batch`, `normal_equations`, `dual` and
  `conjugate_gradient` are its parts.
* `hot_rows`: rows that hold a large part of all observations, cut into pieces; `hot_sums` adds them up exactly,
  `hot_solutions` solves them.
* `joint_step`: how far to go when both sides take gradient steps at once.
* `pair_scores`, `top_n`: scores of given pairs; the best unseen columns of every row.
* `similarity`, `common_ratings`, `neighbours`: how alike rows are; the most similar rows of every row.
* `blended_neighbours`: the same by factors and features together.
* `neighbour_average`: predictions and lists from what neighbours thought.
* `ranking_metrics`, `list_variety`: how good those lists are, and how varied.
* `label_metrics`: how well scores tell labels apart.
* `bootstrap`: how far measures could be off.

Results are bit-for-bit independent of how rows are divided into blocks, batches or tiles, for a given NumPy,
BLAS, processor type and number of BLAS threads. Run BLAS on one thread per worker.
"""
