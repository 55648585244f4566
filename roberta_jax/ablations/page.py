"""A report's parts, as Markdown with pictures beside it and as one page of HTML that needs nothing else."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass

from roberta_jax.html_page import html_page

# The same hues on white and, lighter, on black; told apart by the colour-blind too, and pictures give each its own marker.
COLORS = {
    "#1f6fb2": "#6cb4f0",
    "#c8500a": "#ff9355",
    "#0a8a68": "#3ccfa3",
    "#a8488b": "#ea9fd2",
    "#9a6c00": "#e8bb45",
    "#5b5fc7": "#b0b3ff",
}
INK, FAINT = "#1d2330", "#d4d8df"


@dataclass(frozen=True)
class Heading:
    text: str
    level: int = 2


@dataclass(frozen=True)
class Paragraph:
    text: str


@dataclass(frozen=True)
class Items:
    items: Sequence[str]


@dataclass(frozen=True)
class Code:
    text: str


@dataclass(frozen=True)
class Table:
    """`align` has l or r for each column. A cell's line break becomes a space in Markdown. In the page the first column stays
    in sight where the table is wider than it.
    """

    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    align: str


@dataclass(frozen=True)
class Pictures:
    """PNG files beside the Markdown, (name, what it shows) each; the page has the same as SVGs, (SVG, what it shows)."""

    files: Sequence[tuple[str, str]]
    svgs: Sequence[tuple[str, str]]


Part = Heading | Paragraph | Items | Code | Table | Pictures


def markdown(parts: Sequence[Part]) -> str:
    return "\n\n".join(_markdown(part) for part in parts) + "\n"


def _markdown(part: Part) -> str:
    match part:
        case Heading(text, level):
            return "#" * level + " " + _plain(text)
        case Paragraph(text):
            return _plain(text)
        case Items(items):
            return "\n".join(f"- {_plain(item)}" for item in items)
        case Code(text):
            return "\n".join(f"    {line}" for line in text.splitlines())
        case Table(header, rows, align):
            rule = ["---:" if each == "r" else "---" for each in align]
            lines = [[_plain(cell) for cell in header], rule, *([_plain(cell) for cell in row] for row in rows)]
            return "\n".join(f"| {' | '.join(line)} |" for line in lines)
        case Pictures(files):
            return "\n\n".join(f"![{_plain(what)}]({file})" for file, what in files)


def _plain(text: str) -> str:
    """Markdown that shows just this text, in one line."""
    return re.sub(r"([\\`*<|])", r"\\\1", " ".join(text.split()))


def page(title: str, parts: Sequence[Part]) -> str:
    """HTML that holds its pictures and its style, has no script, and is light or dark as the reader's screen is."""
    body = "\n".join(_html(part) for part in parts)
    light = "".join(f"--c{i}: {color}; " for i, color in enumerate(COLORS))
    dark = "".join(f"--c{i}: {color}; " for i, color in enumerate(COLORS.values()))
    return html_page(title, body, _STYLE, light, dark)


def _html(part: Part) -> str:
    match part:
        case Heading(text, level):
            return f"<h{level}>{html.escape(text)}</h{level}>"
        case Paragraph(text):
            return f"<p>{html.escape(text)}</p>"
        case Items(items):
            return "<ul>" + "".join(f"<li>{html.escape(item)}</li>" for item in items) + "</ul>"
        case Code(text):
            return f"<pre>{html.escape(text)}</pre>"
        case Table(header, rows, align):
            lines = [_row("th", header, align), *(_row("td", row, align) for row in rows)]
            return f'<div class="wide"><table><thead>{lines[0]}</thead><tbody>{"".join(lines[1:])}</tbody></table></div>'
        case Pictures(_, svgs):
            figures = [f'<figure role="img" aria-label="{html.escape(what)}">{_themed(svg)}</figure>' for svg, what in svgs]
            return f'<div class="pictures">{"".join(figures)}</div>'


def _row(tag: str, cells: Sequence[str], align: str) -> str:
    return "<tr>" + "".join(f'<{tag} class="{each}">{html.escape(cell)}</{tag}>' for each, cell in zip(align, cells)) + "</tr>"


def _themed(svg: str) -> str:
    """An SVG file of matplotlib's as a part of a page: the page's width, font and colours."""
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r' (width|height)="[\d.]+pt"', "", svg, count=2)
    for i, color in enumerate(COLORS):
        svg = svg.replace(color, f"var(--c{i})")
    return svg.replace(INK, "currentColor").replace(FAINT, "var(--line)")


_STYLE = """
h2 { padding-top: 1.2rem; border-top: 1px solid var(--line); }
p, ul { max-width: 90ch; margin: 0.5rem 0; }
pre { background: var(--card); padding: 12px 14px; border-radius: 6px; overflow-x: auto; font-size: 0.85rem; }
.wide { overflow-x: auto; margin: 0.8rem 0; border: 1px solid var(--line); border-radius: 6px; }
table { font-size: 0.86rem; }
th, td { padding: 6px 10px; text-align: left; vertical-align: top; border-top: 1px solid var(--line); }
thead th { border-top: 0; background: var(--card); color: var(--soft); font-weight: 600; vertical-align: bottom; }
.r { text-align: right; white-space: pre; }
thead .r { white-space: normal; }
td.l { min-width: 8em; }
td:first-child { min-width: 6em; font-weight: 600; background: var(--paper); }
th:first-child, td:first-child { position: sticky; left: 0; }
.pictures { columns: 2 400px; column-gap: 24px; margin: 1rem 0; }
figure { margin: 0 0 12px; break-inside: avoid; }
figure svg { display: block; width: 100%; height: auto; max-width: 640px; }
figure svg text { font-family: system-ui, "DejaVu Sans", sans-serif !important; }
"""
