"""A night on a cluster whose Python workers are killed, or hang, while lists are made."""

from __future__ import annotations

import sys
from functools import partial

from recsys_spark.cli import main
from recsys_spark.recommend import lists
from tests import troubled_workers

if __name__ == "__main__":
    lists.rank_users_with_pairs = partial(troubled_workers.hanging_once, folder=sys.argv[1])
    sys.exit(main(sys.argv[2:]))
