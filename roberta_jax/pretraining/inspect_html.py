"""The figures and rows of a corpus as one page of HTML: no script, no font, no picture from anywhere else."""

from collections.abc import Iterator
from html import escape

from roberta_jax.html_page import html_page
from roberta_jax.output import printable

BOS = "<s>"  # begins an input
LEGEND = {"masked": "<mask> in its place", "random": "a random token in its place", "kept": "predicted, but left as it is"}

LIGHT = (
    "--bar: #3d74c7; --masked: #cfe2ff; --random: #ffd9c2; --kept: #cfeed6; --edge: #0b57d0; --hot: #b3450f; --calm: #1a7f37; "
)
DARK = (
    "--bar: #6c9eea; --masked: #1d4274; --random: #6b3113; --kept: #1c4a2a; --edge: #8ab4f8; --hot: #ffb088; --calm: #7ed491; "
)
STYLE = """
.soft, th, figcaption { color: var(--soft); font-size: .9rem; } .soft, code { overflow-wrap: anywhere; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .8rem; margin: 1.6rem 0 0; }
.tiles div { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem; }
.tiles b { display: block; font-size: 1.3rem; font-variant-numeric: tabular-nums; }
.columns { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(26rem, 100%), 1fr)); gap: 0 3rem; }
.columns > * { min-width: 0; } .scroll { overflow-x: auto; } .scroll td { white-space: nowrap; }
th, td { text-align: right; padding: .28rem .6rem; border-bottom: 1px solid var(--line); font-weight: normal; }
th:first-child, td:first-child { text-align: left; padding-left: 0; } td.bar { width: 40%; text-align: left; padding-right: 0; }
td.bar i { display: block; height: .8rem; min-width: 1px; background: var(--bar); border-radius: 0 2px 2px 0; }
code { font-size: .92em; white-space: pre-wrap; }
.legend { display: flex; flex-wrap: wrap; gap: .3rem 1.6rem; margin: 0 0 1rem; }
article { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .8rem 1.1rem;
  margin: 0 0 1rem; }
article p { white-space: pre-wrap; unicode-bidi: isolate; margin: .45rem 0; line-height: 1.75; }
article p + p { border-top: 1px dashed var(--line); padding-top: .45rem; }
mark { color: inherit; border-bottom: 2px solid; padding: .12em 0; }
.masked { background: var(--masked); border-color: var(--edge); }
.random { background: var(--random); border-color: var(--hot); }
.kept { background: var(--kept); border-bottom: 2px dotted var(--calm); } del { opacity: .65; } ins { text-decoration: none; }
.special { color: var(--soft); font: .72em ui-monospace, monospace; white-space: nowrap; }
svg { width: 100%; height: auto; display: block; } svg rect { fill: var(--bar); }
svg text { fill: var(--soft); font-size: 13px; } svg line { stroke: var(--line); }
"""


def spaced(token: str) -> str:
    """A token with its white space to be seen."""
    return printable(token).replace(" ", "␣").replace("\n", "↵")


def marked(piece) -> tuple[str, str]:
    """The text and what it became of a piece that is predicted; a part of a character that others hold is U+FFFD."""
    return printable(piece.text.replace("\n", "↵\n")) or "\ufffd", printable(piece.became.replace("\n", "↵"))


def row_title(row: dict) -> str:
    title = f"step {row['step']}, row {row['row']:,} of the corpus, {len(row['input_ids'])} ids"
    if "is_next" in row:
        title += ", B follows A" if row["is_next"] else ", B is of another document"
    return title


def shares_of(masks: dict) -> str:
    """What the config puts in the place of predicted tokens: `80/10/10`, <mask>, random and kept."""
    return "/".join(f"{100 * masks[name]:g}" for name in ("mask_replace_prob", "random_replace_prob", "keep_prob"))


def blocks(pieces: list) -> Iterator[list]:
    """A row's pieces, parted where a document, a text or an input ends."""
    block = []
    for piece in pieces:
        block.append(piece)
        if piece.kind == "special" and piece.text != BOS:
            yield block
            block = []
    if block:
        yield block


def page(figures: dict) -> str:
    """The page of a corpus' statistics, see preparation.statistics."""
    run, masks, use = figures["run"], figures["masking"], figures["vocabulary_use"]
    tiles = {
        "documents": f"{figures['documents']:,}",
        "text": f"{_short(figures['bytes'])}B",
        "tokens": _short(figures["tokens"]),
        "bytes a token": f"{figures['bytes_per_token']:.2f}",
        "train rows": f"{run['rows']:,}",
        "epochs": f"{run['epochs']:,.{2 if run['epochs'] < 100 else 0}f}",
    }
    pairs = [("B follows A", f"{figures['is_next']:.1%} of the pairs")] if "is_next" in figures else []
    several = [("inputs a row", f"{figures['inputs_per_row']:.2f}")] if figures["inputs_per_row"] > 1 else []
    frequent = [(f"<code>{escape(spaced(each['text']))}</code>", each["share"]) for each in figures["top_tokens"]]
    dropped = ", ".join(f"{number:,} {kind.replace('_', ' ')}" for kind, number in figures["dropped"].items() if number)
    sections = [
        f"<h1>What {escape(figures['format'])} training will see</h1>",
        f'<p class="soft">{escape(", ".join(figures["source"]))} · <code>{escape(figures["corpus"])}</code></p>',
        '<div class="tiles">' + "".join(f"<div><b>{value}</b>{name}</div>" for name, value in tiles.items()) + "</div>",
        f"<h2>The first {len(figures['rows'])} rows that a run with seed {run['seed']} sees</h2>",
        '<p class="legend">' + "".join(f"<span>{_legend(kind)}</span>" for kind in LEGEND) + "</p>",
        *map(_row, figures["rows"]),
        "<h2>Rows</h2>",
        _splits(figures),
        f'<div class="columns"><section><h2>Lengths</h2>{_histogram(figures)}</section><section><h2>The run and its masks</h2>',
        _table(
            [
                ("steps × rows a step", f"{run['steps']:,} × {run['batch_size']:,}"),
                ("tokens that it reads", f"{run['tokens']:,}"),
                ("masking", f"{escape(masks['mode'])}, {masks['rate']:g}, {shares_of(masks)}"),
                ("predicted", f"{masks['predicted']:.2%} of the tokens"),
                ("of these &lt;mask&gt; / random / kept", " / ".join(f"{masks[kind]:.1%}" for kind in LEGEND)),
                ("predictions a row", f"{masks['predicted_per_row']:.1f} of {masks['slots']} slots"),
                ("rows with none", f"{masks['rows_without']:.2%}"),
                *pairs,
                *several,
            ]
        ),
        f'<p class="soft">Masks, lengths and scripts are measured on the first {figures["sample_rows"]:,} rows of the run.</p>',
        '</section></div><div class="columns"><section><h2>Bytes by script</h2>',
        _bars([(escape(name), f"{share:.3%}", share) for name, share in figures["scripts"].items()]),
        "<h2>Vocabulary</h2>",
        _table(
            [
                ("entries", f"{figures['vocabulary']:,}"),
                ("that text can give", f"{use['ids']:,}"),
                ("never in train rows", f"{use['never']:,}"),
                ("fewer than 10 times", f"{use['rare']:,}"),
                ("tokens that are unknown", f"{use['unknown']:.3%}"),
            ]
        ),
        "<h2>Documents</h2>",
        _table(
            [
                ("valid", f"{figures['valid_documents']:,}"),
                ("repeated", f"{figures['repeated_documents']:,}"),
                ("repeated lines", f"{figures['repeated_lines']:,} of {figures['lines']:,}"),
                ("dropped", dropped or "0"),
                ("empty", f"{figures['empty_documents']:,}"),
                ("longer than 8 MiB, cut", f"{figures['documents_cut']:,}"),
                ("not UTF-8", f"{figures['documents_with_invalid_utf8']:,}"),
                ("bad records skipped", f"{figures['bad_records']:,}"),
            ]
        ),
        "</section><section><h2>Most frequent tokens</h2>",
        _bars([(token, f"{share:.2%}", share) for token, share in frequent]),
        "</section></div>",
    ]
    return html_page(", ".join(figures["source"]), "\n".join(sections), STYLE, LIGHT, DARK)


def _short(number: int) -> str:
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= unit:
            return f"{number / unit:,.1f} {name}"
    return f"{number} "


def _legend(kind: str) -> str:
    sample = {"masked": "was here", "random": "<del>was here</del>→<ins>is there</ins>", "kept": "was here"}[kind]
    return f'<mark class="{kind}">{sample}</mark> {escape(LEGEND[kind])}'


def _row(row: dict) -> str:
    paragraphs = "".join(f'<p dir="auto">{"".join(map(_piece, block))}</p>' for block in blocks(row["pieces"]))
    return f'<article><div class="soft">{row_title(row)}</div>{paragraphs}</article>'


def _piece(piece) -> str:
    # What has a `dir` stands apart from the direction of the text around it. Other marks have none: the letters of a
    # joining script keep their forms across them.
    if piece.kind == "special":
        return f'<bdi dir="ltr" class="special">{escape(piece.text)}</bdi>'
    if piece.kind == "text":
        return escape(printable(piece.text))
    text, became = map(escape, marked(piece))
    if piece.kind == "random":
        return f'<mark dir="ltr" class="random"><del>{text}</del>→<ins><bdi>{became}</bdi></ins></mark>'
    return f'<mark class="{piece.kind}">{text}</mark>'


def _table(rows: list[tuple[str, str]]) -> str:
    return "<table>" + "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in rows) + "</table>"


def _bars(rows: list[tuple[str, str, float]]) -> str:
    largest = max(share for *_, share in rows)
    return (
        "<table>"
        + "".join(
            f'<tr><td>{name}</td><td>{value}</td><td class="bar"><i style="width:{share / largest:.2%}"></i></td></tr>'
            for name, value, share in rows
        )
        + "</table>"
    )


def _splits(figures: dict) -> str:
    head = "<tr><th>split<th>rows<th>tokens<th>full<th>shortest<th>first decile<th>median<th>ninth decile<th>longest</tr>"
    body = ""
    for name, split in figures["splits"].items():
        cells = [name, f"{split['rows']:,}", f"{split['tokens']:,}", f"{split['fill']:.1%}"]
        cells += [f"{split['length_deciles'][i]:,}" for i in (0, 1, 5, 9, 10)]
        body += "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
    return f'<div class="scroll"><table>{head}{body}</table></div>'


def _histogram(figures: dict) -> str:
    """Rows by length, as an SVG of 640 × 260; the bars stand on y = 220."""
    edges, counts = figures["row_lengths"]["edges"], figures["row_lengths"]["rows"]
    left, width, height, largest = 64, 560, 190, max(counts)
    bars = ""
    for share in (0, 0.5, 1):
        y = 220 - height * share
        bars += f'<line x1="{left}" x2="{left + width}" y1="{y}" y2="{y}"/>'
        bars += f'<text x="{left - 8}" y="{y + 4}" text-anchor="end">{largest * share:,.0f}</text>'
    for i, count in enumerate(counts):
        tall, x, step = height * count / largest, left + width * i / len(counts), width / len(counts)
        title = f"<title>{edges[i]:,.0f} to {edges[i + 1]:,.0f} ids: {count:,} rows</title>"
        bars += f'<rect x="{x + 1:.1f}" y="{220 - tall:.1f}" width="{step - 2:.1f}" height="{tall:.1f}">{title}</rect>'
    for i in range(0, len(edges), 4):
        x = left + width * i / len(counts)
        bars += f'<text x="{x:.1f}" y="238" text-anchor="middle">{edges[i]:,.0f}</text>'
    bars += f'<text x="{left + width / 2}" y="256" text-anchor="middle">ids in a row</text>'
    bars += f'<text x="{left - 8}" y="16" text-anchor="end">rows</text>'
    return f'<figure><svg viewBox="0 0 640 262" role="img" aria-label="rows by length">{bars}</svg></figure>'
