"""For notebooks: what the device is, rows with their masks, a curve that grows while a run trains, a confusion matrix.

    dtype = notebook.begin()
    fields = load_config("tiny", {"model.dtype": dtype})  # of roberta_jax.config_files
    with notebook.live_curve("RUN"):
        run(fields, Path("RUN"))  # of roberta_jax.main

notebooks/pretrain.ipynb and notebooks/finetune.ipynb are made of it. Pictures are IPython's `Image`, pages its `HTML`.
"""

import io
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from roberta_jax import storage
from roberta_jax.errors import UserError
from roberta_jax.hardware import cautions, unseen_gpu
from roberta_jax.output import show
from roberta_jax.training.workdir import TASK_JSON, read_metrics

TRAIN, VALID = "#3d74c7", "#b3450f"
SECONDS = 3.0  # between two looks at a run's metrics


def begin() -> str:
    """Says what JAX computes on and what follows from it. From here on an error that a person can mend is one sentence.

    Returns:
      The dtype of the arithmetic that suits the device, for `config.model.dtype`: "bfloat16" or "float32".
    """
    import jax

    if shell := _ipython().get_ipython():
        shell.set_custom_exc((UserError,), lambda shell, kind, error, traceback, **_: show(f"error: {error}"))
    device = jax.devices()[0]
    show(f"JAX {jax.__version__} on {jax.device_count()} × {device.device_kind}")
    in_bfloat16, in_float32 = (cautions(device, dtype, jax.__version_info__) for dtype in ("bfloat16", "float32"))
    for sentence in in_bfloat16:
        show(sentence)
    if sentence := unseen_gpu(device.platform, jax.__version__):
        show(f"! {sentence}")
    dtype = "float32" if device.platform == "cpu" or in_bfloat16 != in_float32 else "bfloat16"
    show(f"arithmetic in {dtype}")
    return dtype


def rows(fields: dict[str, Any], number: int = 8, height: int = 600) -> Any:
    """The page of `python -m roberta_jax.inspect`: a run's first rows with their masks in colour, and the corpus' figures.

    Args:
      fields: of a pretraining job, see `config_files.load_config`. Its text is prepared here, if it is not yet.
      height: of the frame that the page scrolls in, in pixels.
    """
    from roberta_jax.pretraining.inspect import inspect
    from roberta_jax.pretraining.inspect_html import page

    framed = escape(page(inspect(fields, number)[0]))
    # In a frame of its own: the page's style is not the notebook's.
    frame = (
        f'<div><iframe srcdoc="{framed}" style="width:100%;height:{height}px;border:1px solid #8888" sandbox></iframe></div>'
    )
    return _display().HTML(frame)


@contextmanager
def live_curve(workdir: str | Path) -> Iterator[None]:
    """Within it a picture of the losses in a workdir's metrics.jsonl is shown and drawn again as they come in."""
    shown = _display().display(loss_curve(workdir), display_id=True)
    ended = threading.Event()

    def follow() -> None:
        before = None
        while not ended.wait(SECONDS):
            if (metrics := read_metrics(workdir)) != before:
                shown.update(loss_curve(workdir))
                before = metrics

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        shown.update(loss_curve(workdir))


def loss_curve(workdir: str | Path) -> Any:
    """The losses of the train and the valid split by step, as far as a run's metrics.jsonl has them."""
    metrics, (figure, axes) = read_metrics(workdir), _figure(7, 3.6)
    for name, looks in (("train/loss", {"color": TRAIN}), ("valid/loss", {"color": VALID, "marker": "o"})):
        points = [(line["step"], line[name]) for line in metrics if name in line]
        if points:
            steps, losses = zip(*points)
            axes.plot(steps, losses, label=f"{name.partition('/')[0]} {losses[-1]:.3f}", **looks)
    axes.set(xlabel="step", ylabel="loss, nats")
    axes.grid(alpha=0.4)
    if axes.lines:
        axes.legend(frameon=False)
    else:
        axes.text(0.5, 0.5, "no step has been logged yet", transform=axes.transAxes, ha="center", color="grey")
    return _picture(figure)


def confusion_matrix(workdir: str | Path) -> Any:
    """How often each label of the valid split was taken for each, by the predictions that a fine-tuning run has written.

    Raises:
      UserError: the run has no predictions, or they are not one label a text.
    """
    labels, counts = confusions(workdir)
    side = 2.2 + 0.6 * len(labels)
    figure, axes = _figure(side, side)
    shares = counts / np.maximum(1, counts.sum(1, keepdims=True))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), count in np.ndenumerate(counts):
        color = "white" if shares[row, column] > 0.6 else "black"
        axes.text(column, row, f"{count:,}", ha="center", va="center", color=color)
    axes.set(xlabel="predicted", ylabel="label", xticks=range(len(labels)), yticks=range(len(labels)))
    axes.set_xticklabels(labels, rotation=45, ha="right", parse_math=False)
    axes.set_yticklabels(labels, parse_math=False)
    return _picture(figure)


def confusions(workdir: str | Path) -> tuple[list[str], np.ndarray]:
    """The labels, and how often the one of a row was taken for the one of a column: int [labels, labels]."""
    path, task = storage.join(workdir, "predictions.jsonl"), storage.join(workdir, TASK_JSON)
    if not storage.exists(path) or not storage.exists(task):
        raise UserError(f"{path} is not there; expected the workdir of a fine-tuning run that has ended.")
    labels = storage.parse_json(storage.read_bytes(task))["labels"]
    pairs = [(line["label"], line["prediction"]) for line in map(storage.parse_json, storage.read_bytes(path).splitlines())]
    if not labels or any(type(each) is not str or each not in labels for pair in pairs for each in pair):
        raise UserError(f"{workdir} does not give each text one label of several, which a confusion matrix is of.")
    counts = np.zeros((len(labels), len(labels)), int)
    for label, prediction in pairs:
        counts[labels.index(label), labels.index(prediction)] += 1
    return labels, counts


def _figure(width: float, height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure  # without pyplot, whose state belongs to the notebook

    figure = Figure((width, height), dpi=110, layout="constrained")
    return figure, figure.add_subplot()


def _picture(figure: Any) -> Any:
    content = io.BytesIO()
    figure.savefig(content, format="png")
    return _display().Image(content.getvalue())


def _ipython() -> Any:
    try:
        import IPython
    except ImportError:
        raise UserError("IPython is not installed, which shows pictures in notebooks: pip install ipykernel.") from None
    return IPython


def _display() -> Any:
    return _ipython().display
