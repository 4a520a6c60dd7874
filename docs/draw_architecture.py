"""Draw ``architecture.svg`` from the package's own imports, and from the tables that its stages write.

Columns are the stages, in the order that data flows; bars are what all of them share. A line runs down from each of
them, and has a dot wherever it meets something that it imports. Run it as ``python docs/draw_architecture.py``.
"""

from __future__ import annotations

import ast
import math
from collections import Counter
from dataclasses import dataclass, field
from html import escape
from pathlib import Path

from recsys_spark import tables
from recsys_spark.pipeline import stages

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "architecture.svg"

# What stands above the stages and beneath them: a name, what it is, and the modules that it is made of.
ABOVE = {
    "jobs/": ("spark-submit, Airflow", ("jobs",)),
    "cli.py": ("and commands/", ("cli", "commands")),
    "starter/": ("first configurations", ("starter",)),
    "chaos/": ("faults on purpose", ("chaos",)),
    "pipeline.py": ("the stages in order", ("pipeline",)),
}
BENEATH = {
    "runs/": ("directories, log, lease, lineage", ("runs",)),
    "tables.py": (
        "and how data travels",
        (
            "tables",
            "rating_blocks",
            "factor_tables",
            "shared_value",
            "machine_folder",
            "row_neighbours",
            "rating_split",
            "row_difference",
        ),
    ),
    "kernels/": ("the mathematics: NumPy only", ("kernels",)),
    "storage/": ("disks, HDFS, object stores", ("storage", "arrow_file_system")),
    "config/": ("what a run is told", ("config",)),
    "session.py": ("Spark, Java, progress", ("session", "java", "worker_daemon", "job_labels", "progress")),
    "errors.py": ("and small words", ("errors", "interval", "byte_sizes", "day_paths", "redaction")),
}
STAGES = tuple(stage.name for stage in stages())
# Beside the stages: what programs import.
DOORS = {"ml": "ml/", "published": "published.py"}
COLUMNS = (*STAGES, *DOORS)
GROUP_OF = {module: name for name, (_, modules) in {**ABOVE, **BENEATH}.items() for module in modules}
# What is no table, and what is said of those that are.
BESIDE_TABLES = {"publish": ("publication_log", "manifest.json"), "report": ("report.html",)}

TABLES_SAY = (
    "square: the stage writes it",
    "ring: a later stage names it",
    "",
    "no line: for people, or read",
    "by what the writer offers",
)

WIDTH, LEFT, COLUMN, SIDE_LINE = 1120, 186, 78, 11
BAR, STAGE_HEIGHT, ARCS, LANE, GAP = 36, 42, 78, 22, 6
STYLE = """
  svg { --paper: #ffffff; --ink: #1f2328; --quiet: #656d76; --bar: #f3f4f6; --edge: #d0d7de; --guide: #d8dee4;
    --stage: #0969da; --stage-ink: #ffffff; --table: #1a7f37; --dot: #57606a; --kernel: #bc4c00; }
  @media (prefers-color-scheme: dark) { svg { --paper: #0d1117; --ink: #e6edf3; --quiet: #9198a1; --bar: #161b22;
    --edge: #30363d; --guide: #30363d; --stage: #1f6feb; --stage-ink: #ffffff; --table: #3fb950; --dot: #9198a1;
    --kernel: #f0883e; } }
  text { font-family: system-ui, "Segoe UI", "DejaVu Sans", sans-serif; fill: var(--ink); font-size: 14px; }
  .small { font-size: 11.5px; fill: var(--quiet); }
  .table { font-size: 12px; fill: var(--ink); stroke: var(--paper); stroke-width: 3px; paint-order: stroke; }
  .stage { fill: var(--stage); } .door { fill: var(--paper); stroke: var(--stage); stroke-width: 1.5; }
  .name { font-weight: 600; text-anchor: middle; } .stage + .name { fill: var(--stage-ink); }
  .bar { fill: var(--bar); stroke: var(--edge); } .kernels .bar { stroke: var(--kernel); }
  .kernels .dot { fill: var(--kernel); } .guide { stroke: var(--guide); fill: none; }
.start { fill: var(--paper); stroke: var(--quiet); }
  .dot { fill: var(--dot); stroke: var(--paper); stroke-width: 1; }
  .arc { fill: none; stroke: var(--stage); opacity: 0.6; } .head { fill: var(--stage); }
  .lane { stroke: var(--table); stroke-width: 1.5; } .writes { fill: var(--table); }
  .reads { fill: var(--paper); stroke: var(--table); stroke-width: 2; }
"""


def group_of(module: str) -> str:
    """Return the column or the bar that a module such as ``recsys_spark.runs.lease`` belongs to.

    Raises
    ------
    KeyError
        If it is a new one that has no place in the picture yet.
    """
    first = module.split(".")[1]
    return first if first in COLUMNS else GROUP_OF[first]


def imports_of(path: Path) -> set[str]:
    """Return the modules of the package that a file imports, and of ``tables`` the names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
            if node.module == "recsys_spark.tables":
                found |= {f"recsys_spark.tables.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {module for module in found if module.startswith("recsys_spark.")}


def module_name(path: Path) -> str:
    """Return a file's name as a module."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def read_imports() -> Counter[tuple[str, str]]:
    """Return how many modules of one group import another group."""
    edges: Counter[tuple[str, str]] = Counter()
    for folder in (ROOT / "recsys_spark", ROOT / "jobs"):
        for path in sorted(folder.rglob("*.py")):
            if path == ROOT / "recsys_spark" / "__init__.py" or path.parent.name == "dags":
                continue
            here = "jobs/" if folder.name == "jobs" else group_of(module_name(path))
            edges.update({(here, there) for there in map(group_of, imports_of(path)) if there != here})
    return edges


def tables_named_by(stage: str) -> set[str]:
    """Return the tables that a stage's modules name, beginning with ``stage.py``: commands have modules beside it."""
    folder = ROOT / "recsys_spark" / stage
    to_read, seen, found = [folder / "stage.py"], set(), set()
    while to_read:
        path = to_read.pop()
        if path in seen or not path.is_file():
            continue
        seen.add(path)
        for module in imports_of(path):
            parts = module.split(".")
            if parts[1] == stage and len(parts) > 2:
                to_read.append(folder / f"{parts[2]}.py")
            elif parts[1] == "tables" and isinstance(table := getattr(tables, parts[-1], None), tables.Table):
                found.add(table.name)
    return found


@dataclass
class Lane:
    """A table, or several that no later stage names: the column that writes it, those that read it, and its row."""

    name: str
    writer: int
    readers: list[int]
    row: int = 0

    @property
    def ends(self) -> float:
        """Where the lane ends, and its label."""
        label = column_x(self.writer) + 10 + 6.6 * len(self.name)
        return max([label, *(column_x(reader) + 12 for reader in self.readers)])


def lanes() -> list[Lane]:
    """Return the tables, in rows that leave no two of them on top of each other."""
    named = [tables_named_by(stage) for stage in STAGES]
    found = []
    for writer, stage in enumerate(stages()):
        own = [Lane(table.name, writer, _readers(table.name, named, writer)) for table in stage.tables]
        found += sorted((lane for lane in own if lane.readers), key=lambda lane: -lane.readers[-1])
        others = [lane.name for lane in own if not lane.readers] + list(BESIDE_TABLES.get(stage.name, ()))
        if others:
            found.append(Lane(", ".join(others), writer, []))
    free: list[float] = []
    first_rows: dict[int, int] = {}
    for lane in found:
        # Not above the tables of the stage before: they go down as data goes on.
        highest = first_rows.get(lane.writer - 1, 0)
        fits = (row for row in range(highest, len(free)) if free[row] + 14 < column_x(lane.writer))
        lane.row = next(fits, len(free))
        free[lane.row : lane.row + 1] = [lane.ends]
        first_rows[lane.writer] = min(first_rows.get(lane.writer, lane.row), lane.row)
    return found


def _readers(table: str, named: list[set[str]], writer: int) -> list[int]:
    return [column for column in range(writer + 1, len(named)) if table in named[column]]


def column_x(column: int) -> float:
    """Return the middle of a column; doors stand a little apart."""
    return LEFT + COLUMN * (column + 0.5) + (10 if column >= len(STAGES) else 0)


@dataclass
class Drawing:
    """The picture, part by part."""

    parts: list[str] = field(default_factory=list)

    def add(self, tag: str, *, text: str = "", says: str = "", **attributes: object) -> None:
        """Add an element, with what a pointer on it is told."""
        given = "".join(
            f' {name.rstrip("_").replace("_", "-")}="{_short(value)}"' for name, value in attributes.items()
        )
        inside = escape(text) + (f"<title>{escape(says)}</title>" if says else "")
        self.parts.append(f"<{tag}{given}>{inside}</{tag}>" if inside else f"<{tag}{given}/>")


def _short(value: object) -> str:
    return f"{value:.1f}".removesuffix(".0") if isinstance(value, float) else str(value)


@dataclass
class Places:
    """Where everything stands: the tops of the bars, and the rows between."""

    bars: dict[str, float]
    stages: float
    lanes: float
    bottom: float


def places(n_rows: int) -> Places:
    """Return the heights of all bars and rows, from the top."""
    bars, y = {}, 20.0
    for name in ABOVE:
        bars[name], y = y, y + BAR + GAP
    stage_row = y + ARCS
    lane_row = stage_row + STAGE_HEIGHT + 14
    y = lane_row + LANE * n_rows + 14
    for name in BENEATH:
        bars[name], y = y, y + BAR + GAP
    return Places(bars, stage_row, lane_row, y)


def draw() -> str:
    """Return the picture as SVG."""
    edges, found = read_imports(), lanes()
    place = places(1 + max(lane.row for lane in found))
    drawing = Drawing()
    _draw_bars(drawing, place)
    _draw_guides(drawing, place, edges)
    _draw_arcs(drawing, place, edges)
    _draw_columns(drawing, place)
    _draw_lanes(drawing, place, found)
    _draw_dots(drawing, place, edges)
    height = round(place.bottom + 34)
    _draw_legend(drawing, place)
    body = "\n".join(drawing.parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        f'aria-label="Stages from left to right, their tables, and what they import">\n<style>{STYLE}</style>\n'
        f'<rect width="{WIDTH}" height="{height}" rx="8" style="fill: var(--paper)"/>\n{body}\n</svg>\n'
    )


def line_x(name: str) -> float:
    """Return where the line of a bar runs: at the right, beside the columns."""
    return LEFT + COLUMN * len(COLUMNS) + 22 + SIDE_LINE * [*ABOVE, *BENEATH].index(name)


def top_of(name: str, place: Places) -> float:
    """Return where the line of a column or a bar begins."""
    return place.bars[name] + BAR / 2 if name in place.bars else place.stages + STAGE_HEIGHT


def _draw_guides(drawing: Drawing, place: Places, edges: Counter[tuple[str, str]]) -> None:
    for column, name in enumerate(COLUMNS):
        targets = [place.bars[there] for here, there in edges if here == name and there in place.bars]
        users = [place.bars[here] for here, there in edges if there == name and here in place.bars]
        top, bottom = min(users, default=place.stages), max(targets, default=place.stages)
        x = column_x(column)
        drawing.add("path", class_="guide", d=f"M{_short(x)} {_short(top + BAR / 2)}V{_short(bottom + BAR / 2)}")
    for name in place.bars:
        targets = [place.bars[there] for here, there in edges if here == name and there in place.bars]
        if targets:
            x, y = line_x(name), place.bars[name] + BAR / 2
            drawing.add("path", class_="guide", d=f"M{_short(x)} {_short(y)}V{_short(max(targets) + BAR / 2)}")
            drawing.add("circle", class_="start", cx=x, cy=y, r=3)


def _draw_bars(drawing: Drawing, place: Places) -> None:
    for name, y in place.bars.items():
        what, _ = {**ABOVE, **BENEATH}[name]
        drawing.parts.append('<g class="kernels">' if name == "kernels/" else "<g>")
        drawing.add("rect", class_="bar", x=8, y=y, width=WIDTH - 16, height=BAR, rx=5)
        drawing.add("text", text=name, x=18, y=y + 15, font_weight=600)
        drawing.add("text", text=what, class_="small", x=18, y=y + 29)
        drawing.parts.append("</g>")


def _draw_columns(drawing: Drawing, place: Places) -> None:
    drawing.add("text", text="rating logs", x=100, y=place.stages + 25)
    drawing.add("path", class_="head", d=_arrow(LEFT - 2, place.stages + 20, right=True))
    for column, name in enumerate(COLUMNS):
        style = "stage" if name in STAGES else "door"
        x, width = column_x(column), COLUMN - 6
        drawing.add("rect", class_=style, x=x - width / 2, y=place.stages, width=width, height=STAGE_HEIGHT, rx=6)
        size = 10 if name == "published" else 11
        label = DOORS.get(name, name)
        drawing.add("text", text=label, class_="name", x=x, y=place.stages + 25, style=f"font-size: {size}px")


def _arrow(x: float, y: float, *, right: bool = False) -> str:
    x, y = round(x, 1), round(y, 1)
    return f"M{x} {y}l-7 -4v8z" if right else f"M{x} {y}l-3.5 -7h7z"


def _draw_arcs(drawing: Drawing, place: Places, edges: Counter[tuple[str, str]]) -> None:
    for (here, there), n in sorted(edges.items()):
        if here not in COLUMNS or there not in COLUMNS:
            continue
        start, end = column_x(COLUMNS.index(here)) - 12, column_x(COLUMNS.index(there)) + 12
        if start < end:
            raise ValueError(f"{here} imports {there}, which is a later stage")
        y = place.stages
        top = y - 20 - (ARCS - 8) * math.sqrt((start - end) / (6 * COLUMN))
        path = f"M{_short(start)} {_short(y)}C{_short(start)} {_short(top)} {_short(end)} {_short(top)}"
        width = 1 + math.log2(n) / 2
        drawing.add(
            "path",
            class_="arc",
            d=f"{path} {_short(end)} {_short(y - 5)}",
            stroke_width=width,
            says=_says(here, there, n),
        )
        drawing.add("path", class_="head", d=_arrow(end, y))


def _draw_lanes(drawing: Drawing, place: Places, found: list[Lane]) -> None:
    for lane in found:
        x, y = column_x(lane.writer), place.lanes + LANE * (lane.row + 1) - 3
        last = column_x(lane.readers[-1]) if lane.readers else x
        drawing.add("path", class_="lane", d=f"M{_short(x)} {_short(y)}H{_short(last)}")
        drawing.add("rect", class_="writes", x=x - 4, y=y - 4, width=8, height=8)
        drawing.add("text", text=lane.name, class_="table", x=x + 7, y=y - 5)
        for reader in lane.readers:
            drawing.add("circle", class_="reads", cx=column_x(reader), cy=y, r=3.5)


def _draw_dots(drawing: Drawing, place: Places, edges: Counter[tuple[str, str]]) -> None:
    for (here, there), n in sorted(edges.items()):
        bar = there if there in place.bars else here
        if bar not in place.bars:
            continue
        if there in place.bars and top_of(there, place) < top_of(here, place):
            raise ValueError(f"{here} imports {there}, which stands above it")
        other = here if bar == there else there
        x = column_x(COLUMNS.index(other)) if other in COLUMNS else line_x(other)
        radius = 2.2 + 0.9 * math.sqrt(n)
        drawing.parts.append('<g class="kernels">' if bar == "kernels/" else "<g>")
        drawing.add("circle", class_="dot", cx=x, cy=place.bars[bar] + BAR / 2, r=radius, says=_says(here, there, n))
        drawing.parts.append("</g>")


def _says(here: str, there: str, n: int) -> str:
    return f"{here} imports {there}: {n} module{'s' if n > 1 else ''}"


def _draw_legend(drawing: Drawing, place: Places) -> None:
    _tell(drawing, place.stages - 48, "Stages", ("arc: imports what an", "earlier stage offers"))
    _tell(drawing, place.lanes + 16, "Tables", TABLES_SAY)
    y = place.bottom + 16
    drawing.add("circle", class_="dot", cx=22, cy=y - 4, r=5)
    dots = (
        "an import where a line meets a bar: the more modules import, the larger. The lines at the right begin at bars."
    )
    drawing.add("text", text=f"{dots} No import points up.", class_="small", x=34, y=y)


def _tell(drawing: Drawing, y: float, title: str, lines: tuple[str, ...]) -> None:
    drawing.add("text", text=title, x=18, y=y, font_weight=600)
    for number, line in enumerate(lines, start=1):
        drawing.add("text", text=line, class_="small", x=18, y=y + 2 + 15 * number)


if __name__ == "__main__":
    PICTURE.write_text(draw(), encoding="utf-8")
