"""The picture of floors and rooms, drawn from the code.

python -m supply.architecture

The floors are the layers that import-linter enforces (pyproject.toml), the imports are those that grimp finds, and
the text about a room is the first line of its docstring.
"""

import ast
import json
import re
import textwrap
import tomllib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from html import unescape
from pathlib import Path

import grimp
import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from supply.lock import ROOT

PICTURE = ROOT / "docs" / "images" / "architecture.svg"
_PACKAGE = "lance_pipeline"
# A package with at least this many packages inside is drawn with them.
_INNER = 2
# Line counts keep two digits, so that few commits change the picture.
_DIGITS = 2

_WIDTH, _GAP, _PAD = 11.0, 0.1, 0.08
_LINE, _TITLE = 0.165, 0.2
_COLUMNS = 3
_CHARACTERS_PER_INCH = 15.5
_EDGE, _FILL, _INNER_FILL = "#4a5a6a", "#eef3f8", "#ffffff"


@dataclass(frozen=True)
class Room:
    """One module or package directly below the package, or directly below a room.

    Attributes:
        name: name of the module, without its parent packages.
        about: the first line of its docstring.
        modules: number of modules.
        lines: number of lines, rounded.
        imports: the other rooms of the package that it imports from.
        rooms: the packages inside, if there are several.
    """

    name: str
    about: str
    modules: int
    lines: int
    imports: tuple[str, ...]
    rooms: tuple["Room", ...] = ()


def floors() -> list[list[Room]]:
    """The rooms of each floor of the current code, the lowest floor first."""
    graph = grimp.build_graph(_PACKAGE, cache_dir=None)
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    (layers,) = (contract["layers"] for contract in contracts if contract["type"] == "layers")
    return [[_room(graph, name.strip()) for name in layer.split("|")] for layer in reversed(layers)]


def _room(graph: grimp.ImportGraph, name: str) -> Room:
    members = {name} | graph.find_descendants(name)
    imported = {_outer(other) for one in members for other in graph.find_modules_directly_imported_by(one)}
    packages = sorted(child for child in graph.find_children(name) if graph.find_children(child))
    return Room(
        name.rpartition(".")[2],
        _about(name),
        len(members),
        _rounded(sum(len(_file(one).read_text().splitlines()) for one in members)),
        tuple(sorted(imported - {_outer(name), ""})),
        tuple(_room(graph, one) for one in packages) if len(packages) >= _INNER else (),
    )


def _outer(module: str) -> str:
    """The room that a module belongs to; "" for the package itself."""
    return module.split(".")[1] if "." in module else ""


def _file(module: str) -> Path:
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def _about(module: str) -> str:
    text = ast.get_docstring(ast.parse(_file(module).read_text())) or ""
    return text.partition("\n\n")[0].replace("\n", " ").replace("`", "").removesuffix(".")


def _rounded(number: int) -> int:
    return round(number, min(0, _DIGITS - len(str(number))))


def drawn(picture: Path = PICTURE) -> list[list[dict]]:
    """The data that a picture was drawn from, as returned by :func:`described`."""
    found = re.search(r"<dc:description>(.*?)</dc:description>", picture.read_text(), re.DOTALL)
    return json.loads(unescape(found[1])) if found else []


def described(rooms: list[list[Room]]) -> list[list[dict]]:
    """The floors in the form of JSON."""
    return json.loads(json.dumps([[asdict(room) for room in floor] for floor in rooms]))


def draw(rooms: list[list[Room]], picture: Path = PICTURE) -> None:
    """Write the picture, including the data it was drawn from; equal rooms give equal bytes."""
    heights = [max(_height(room, _share(len(floor))) for room in floor) for floor in rooms]
    total = sum(heights) + _GAP * (len(rooms) + 1)
    # As text, so that the picture stays small and searchable.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": _PACKAGE, "font.family": "sans-serif"}):
        figure = Figure(figsize=(_WIDTH, total))
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set(xlim=(0, _WIDTH), ylim=(0, total))
        axes.axis("off")
        bottom = _GAP
        for floor, height in zip(rooms, heights, strict=True):
            width = _share(len(floor))
            for place, room in enumerate(floor):
                _draw_room(axes, room, _GAP + place * (width + _GAP), bottom, width, height)
            bottom += height + _GAP
        description = json.dumps(described(rooms), ensure_ascii=True)
        figure.savefig(picture, format="svg", metadata={"Description": description, "Date": None, "Creator": None})
    # Matplotlib leaves trailing spaces.
    picture.write_text("".join(f"{line.rstrip()}\n" for line in picture.read_text().splitlines()))


def _share(rooms: int, width: float = _WIDTH) -> float:
    return (width - _GAP * (rooms + 1)) / rooms


def _lines(room: Room, width: float) -> Iterator[str]:
    """The lines of text below the name of a room."""
    facts = [f"{room.modules} modules, about {room.lines:,} lines"] if room.modules > 1 else []
    if not room.rooms and room.imports:
        facts.append(f"imports {', '.join(room.imports)}")
    for part in (room.about, "; ".join(facts)):
        yield from textwrap.wrap(part, int((width - 2 * _PAD) * _CHARACTERS_PER_INCH))


def _height(room: Room, width: float) -> float:
    own = 2 * _PAD + _TITLE + _LINE * len([*_lines(room, width)])
    if not room.rooms:
        return own
    rows = [room.rooms[at : at + _COLUMNS] for at in range(0, len(room.rooms), _COLUMNS)]
    return own + sum(max(_height(one, _share(_COLUMNS, width)) for one in row) + _GAP for row in rows)


def _draw_room(
    axes: Axes, room: Room, left: float, bottom: float, width: float, height: float, fill: str = _FILL
) -> None:
    axes.add_patch(Rectangle((left, bottom), width, height, facecolor=fill, edgecolor=_EDGE, linewidth=0.8))
    top = bottom + height - _PAD
    axes.text(left + _PAD, top, room.name, va="top", fontsize=10, fontweight="bold")
    top -= _TITLE
    for line in _lines(room, width):
        axes.text(left + _PAD, top, line, va="top", fontsize=7.5)
        top -= _LINE
    inner = _share(_COLUMNS, width)
    for at in range(0, len(room.rooms), _COLUMNS):
        row = room.rooms[at : at + _COLUMNS]
        tall = max(_height(one, inner) for one in row)
        top -= tall + _GAP if at else tall
        for place, one in enumerate(row):
            _draw_room(axes, one, left + _GAP + place * (inner + _GAP), top, inner, tall, _INNER_FILL)


if __name__ == "__main__":
    draw(floors())
    print(PICTURE.relative_to(ROOT))
