"""What one is about to train on: rows with their masks, and the figures of the corpus.

    python -m roberta_jax.inspect --config=configs/tiny.py --config.data.source=text/ --html=page.html

The corpus is opened, or prepared, as training would do it; rows and masks are those of the run's first steps. `--json`
prints all of it as one object, `--html` writes it as one page that needs nothing else.
"""

import sys
from contextlib import redirect_stdout
from pathlib import Path

from absl import app, flags

from roberta_jax import storage
from roberta_jax.config_files import define_config, parse_flags
from roberta_jax.errors import exit_with_sentence
from roberta_jax.output import show, to_json
from roberta_jax.pretraining.inspect import inspect, lines
from roberta_jax.pretraining.inspect_html import page


def command() -> None:
    config = define_config()
    rows = flags.DEFINE_integer("rows", 8, "To show, of those that the run sees first.", lower_bound=1)
    html = flags.DEFINE_string("html", None, "A file to write as a page.")
    as_json = flags.DEFINE_bool("json", False, "Print one JSON object.")
    flags.mark_flag_as_required("config")

    def main(_) -> None:
        if html.value:
            storage.require_place(Path(html.value))
        with redirect_stdout(sys.stderr):  # a preparation tells of itself
            figures, prepared = inspect(config.value.to_dict(), rows.value)
        if as_json.value:
            rows_of_ids = [{name: value for name, value in row.items() if name != "pieces"} for row in figures["rows"]]
            show(to_json(figures | {"rows": rows_of_ids}))
        else:
            print("\n".join(lines(figures, prepared, sys.stdout.isatty())))
        if html.value:
            storage.write_text(html.value, page(figures))

    app.run(main, flags_parser=lambda argv: parse_flags(argv, config))


if __name__ == "__main__":
    exit_with_sentence(command)
