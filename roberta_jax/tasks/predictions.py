"""What a person and GLUE's or SQuAD's server are given of a model's answers."""

import re
import zipfile
from collections.abc import Mapping
from pathlib import Path

from roberta_jax import storage
from roberta_jax.output import to_json
from roberta_jax.tasks.definitions import Task
from roberta_jax.tasks.features import Encoded, Logits
from roberta_jax.tasks.kinds.table import KINDS
from roberta_jax.training.logging import say
from roberta_jax.training.workdir import METRICS_TEST_JSON

# A task's file in a submission to GLUE, by the name of the part of its test split.
SUBMISSION = {
    "cola": {"": "CoLA"},
    "sst2": {"": "SST-2"},
    "mrpc": {"": "MRPC"},
    "stsb": {"": "STS-B"},
    "qqp": {"": "QQP"},
    "mnli": {"": "MNLI-m", "mismatched": "MNLI-mm", "diagnostic": "AX"},
    "qnli": {"": "QNLI"},
    "rte": {"": "RTE"},
    "wnli": {"": "WNLI"},
}


def write(
    task_name: str, task: Task, labels: tuple[str, ...], split: Encoded, logits: Logits, part: str, test: bool, workdir: Path
) -> list[Path]:
    """predictions.jsonl of a valid split, predictions_test.jsonl of a test split, and GLUE's or SQuAD's own forms beside.

    A line is {"id", "prediction", what else the kind has to say, "label" where it is known}.

    Args:
      part: the split's name, such as "mismatched"; "" for the main one.
    """
    ending = ("_test" if test else "") + (f"_{part}" if part else "")
    path = workdir / f"predictions{ending}.jsonl"
    predictions, files = KINDS[task.kind].predict(task, labels, split, logits)
    lines = [
        {"id": example.id} | prediction | ({} if example.label is None else {"label": example.label})
        for example, prediction in zip(split.examples, predictions, strict=True)
    ]
    storage.write_text(path, "".join(to_json(line) + "\n" for line in lines))
    written = [path]
    for name, content in files.items():
        written.append(workdir / f"{Path(name).stem}{ending}.json")
        storage.write_json(written[-1], content)
    if test and part in SUBMISSION.get(task_name, {}):
        written.append(workdir / f"{SUBMISSION[task_name][part]}.tsv")
        rows = (f"{line['id']}\t{_for_glue(line['prediction'])}\n" for line in lines)
        storage.write_text(written[-1], "index\tprediction\n" + "".join(rows))
    return written


def remove_of_test(task_name: str, workdir: Path) -> None:
    """Deletes what was written of a test split, which this run's may not have any more, or without its labels."""
    named = {METRICS_TEST_JSON, *(f"{stem}.tsv" for stem in SUBMISSION.get(task_name, {}).values())}
    for name in storage.names(workdir):
        if name in named or re.fullmatch(r"((nbest_)?predictions|null_odds)_test(_\w+)?\.jsonl?", name):
            storage.remove_file(workdir / name)


def zip_submission(folders: Mapping[str, Path], workdir: Path) -> None:
    """submission.zip with the files that GLUE's server takes, of the tasks that have a test split; none where no task has.

    Args:
      folders: task → where its files are.
    """
    wanted = [folder / f"{stem}.tsv" for name, folder in folders.items() for stem in SUBMISSION.get(name, {}).values()]
    files, archived = [path for path in wanted if path.exists()], workdir / "submission.zip"
    if not files:
        storage.remove_file(archived)
        return
    with storage.written(archived) as partial:
        with zipfile.ZipFile(partial, "w", zipfile.ZIP_DEFLATED) as archive:
            for path in files:
                archive.writestr(path.name, storage.read_bytes(path))
    say(f"{archived}: {', '.join(path.name for path in files)}")
    if missing := sorted(path.name for path in wanted if path not in files):
        say(f"! GLUE's server takes {', '.join(missing)} too, and of that no test split was found")


def _for_glue(prediction: str | float) -> str:
    """A label as it is; a similarity within the scale of STS-B."""
    return f"{min(5.0, max(0.0, prediction)):.3f}" if isinstance(prediction, float) else prediction
