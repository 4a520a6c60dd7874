"""Whether there is room for a run, asked before it begins."""

from __future__ import annotations

from collections.abc import Sequence

from recsys_spark.byte_sizes import human_size
from recsys_spark.errors import ConfigError, RecsysError
from recsys_spark.runs.publication_log import publications
from recsys_spark.runs.run_directory import StageContext
from recsys_spark.storage import FileStatus, read_json

# While a run works, what it reads again stands beside what it keeps.
_PEAK = 2.0
# Of the first run nothing is known but its input. The demo's 4.0 MB, 12 MB unpacked, became a run of 20 MB.
_TIMES_INPUT, _TIMES_COMPRESSED = 2.0, 6.0
_COMPRESSED = (".gz", ".bz2", ".zst", ".xz")


def require_room(context: StageContext, files: Sequence[FileStatus]) -> int:
    """Return how many bytes the run may need, from the newest run or, without one, from its input.

    Raises
    ------
    ConfigError
        If the storage says that it has less, and ``output.check_room`` is on.
    """
    needed = round(_PEAK * (_newest_bytes(context) or _from_input(files)))
    if not context.config.output.check_room:
        return needed
    free = context.storage.free_bytes(context.run.root)
    if free is not None and free < needed:
        raise ConfigError(
            "there is too little room for this run",
            where=f"output.path: {context.run.root}",
            got=f"{human_size(free)} free",
            allowed=f"about {human_size(needed)} or more",
            remedy="recsys-spark gc --keep K removes old runs; output.check_room: false goes on nevertheless",
        )
    return needed


def _newest_bytes(context: StageContext) -> int:
    """Return the size of the newest published run, 0 where there is none that can be read."""
    try:
        entries = publications(context.run.root, context.storage)
        if not entries:
            return 0
        files = read_json(context.storage, entries[-1].newest(context.run.root).manifest_path)["files"]
    except (RecsysError, OSError, ValueError, KeyError):
        return 0
    return sum(file["size"] for of_table in files.values() for file in of_table)


def _from_input(files: Sequence[FileStatus]) -> float:
    return sum(file.size * (_TIMES_COMPRESSED if file.path.endswith(_COMPRESSED) else _TIMES_INPUT) for file in files)
