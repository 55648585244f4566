"""A page of HTML that needs nothing else: no script, no font, no picture from anywhere; light or dark as the screen is."""

from html import escape

STYLE = """
:root { color-scheme: light dark; --paper: #fff; --card: #f6f7f9; --line: #d9dde3; --ink: #1c2128; --soft: #59636e; LIGHT}
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171b; --card: #1d2127; --line: #3a414b; --ink: #e4e8ed; --soft: #9aa5b1; DARK}
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", "Noto Sans", "DejaVu Sans", sans-serif; }
main { max-width: 72rem; margin: 0 auto; padding: 2.2rem 1.4rem 4rem; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .4rem; }
h2 { font-size: 1.25rem; line-height: 1.25; margin: 3rem 0 .7rem; }
h3 { font-size: 1rem; margin: 1.6rem 0 .4rem; color: var(--soft); }
p { margin: .5rem 0; overflow-wrap: anywhere; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th { color: var(--soft); }
code, pre { font-family: ui-monospace, "SF Mono", "DejaVu Sans Mono", monospace; }
figure { margin: 0; }
"""


def html_page(title: str, body: str, style: str = "", light: str = "", dark: str = "") -> str:
    """The whole page.

    Args:
      body: what stands in <main>, escaped already.
      style: CSS beyond `STYLE`.
      light, dark: variables beyond `STYLE`'s, as "--name: value; ", for a light and a dark screen.
    """
    css = STYLE.replace("LIGHT", light).replace("DARK", dark) + style
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">\n"
        f"<title>{escape(title)}</title>\n<style>{css}</style>\n</head>\n<body>\n<main>\n{body}\n</main>\n</body>\n</html>\n"
    )
