"""The benchmarks that stand in the performance report: their work is what they say, and their tables hold what was measured."""

import ast
import dataclasses
import json
import os
import subprocess
import sys
import time
from datetime import date
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from benchmarks import attentions, finetune, in_turn, inference, input_pipeline, needs, report, tokenizer, train_step
from benchmarks.sides import LIMIT, OURS, SIDES, Case, roberta_config
from roberta_jax.errors import UserError
from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.heads import apply_masked_lm, init_masked_lm

BATCH = "tokenizers' encode_batch"
SMALL = Case("tiny", rows=8, length=32, vocab_size=512, layers=1, dropout=0.0)


def test_all_sides_predict_the_same_tokens():
    batch, everywhere = SMALL.batch(), SMALL.labels_everywhere()
    assert (everywhere >= 0).sum() == batch["weights"].sum() == SMALL.rows * (SMALL.slots - 1)
    for row in range(SMALL.rows):
        of_ours = dict(zip(batch["positions"][row, :-1].tolist(), batch["labels"][row, :-1].tolist()))
        assert {int(i): int(everywhere[row, i]) for i in np.flatnonzero(everywhere[row] >= 0)} == of_ours
        assert all(batch["input_ids"][row, i] == SMALL.vocab_size - 1 for i in of_ours)


@pytest.fixture(scope="module")
def both() -> list[dict]:
    """With the kernel where there is one, and with XLA's attention."""
    sides = ["roberta_jax", "PyTorch eager", "FlaxRoberta"]
    cases = [SMALL, dataclasses.replace(SMALL, attention="xla")]
    return train_step.measure(cases, sides, rounds=2, steps=1, flax_python="no/python", at_once=True)


@pytest.fixture(scope="module")
def found(both) -> dict:
    return both[0]


def test_peers_are_measured_once_for_cases_that_are_the_same_to_them(both):
    first, second = both
    assert [one["case"]["attention"] for one in both] == ["kernel", "xla"]
    for side in (LIMIT, "PyTorch eager"):
        assert first["sides"][side]["seconds"] == second["sides"][side]["seconds"]
    assert first["sides"][OURS]["seconds"] != second["sides"][OURS]["seconds"]
    assert first["sides"][OURS]["plan"]["hbm_bytes"] > 0
    cases = [Case(shape, attention=attention) for attention in ("kernel", "xla") for shape in ("base", "large")]
    assert train_step.alike(cases) == [[cases[0], cases[2]], [cases[1], cases[3]]]


@pytest.mark.parametrize("at_once", [False, True])
def test_minutes_end_what_is_being_measured(at_once, tmp_path, monkeypatch):
    """Workers that never answer; none is left then."""
    (tmp_path / "python").write_text(f"#!/bin/sh\necho $$ >> {tmp_path}/pids\nexec sleep 600\n")
    (tmp_path / "python").chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    began = time.monotonic()
    (found,) = train_step.measure([SMALL], [OURS, "PyTorch eager"], 2, 1, at_once=at_once, end=began + 1)
    assert time.monotonic() - began < 300
    assert not any(Path("/proc", pid).exists() for pid in (tmp_path / "pids").read_text().split())
    assert {side["failed"] for side in found["sides"].values()} == {train_step.NO_TIME}
    assert all("no time left" in line for line in train_step.lines(found)[4:])


def test_rounds_that_there_was_time_for_are_kept(monkeypatch):
    """By a clock that goes on whenever it is asked: the time is over within the second round."""
    monkeypatch.setattr(train_step, "time", SimpleNamespace(monotonic=map(lambda tick: 100.0 * tick, count()).__next__))
    (found,) = train_step.measure([SMALL], [OURS], 5, 1, end=1000.0, limit=False)
    side = found["sides"][OURS]
    assert len(side["seconds"]) == 1 and side["memory"] > 0


def test_a_step_of_each_side_is_measured_in_its_own_process(found):
    ours, limit, theirs = (found["sides"][name] for name in ("roberta_jax", LIMIT, "PyTorch eager"))
    assert all(len(side["seconds"]) == 2 and min(side["seconds"]) > 0 for side in (ours, limit, theirs))
    rows = {row["side"]: row for row in train_step.rows_of(found)}
    assert rows["roberta_jax"]["ratio"]["smallest"] == rows["roberta_jax"]["ratio"]["largest"] == 1
    tokens = SMALL.rows * SMALL.length
    assert rows["PyTorch eager"]["tokens/s"]["largest"] == tokens / min(theirs["seconds"])
    assert rows["roberta_jax"]["share"]["largest"] == max(a / b for a, b in zip(limit["seconds"], ours["seconds"]))


def test_a_side_that_cannot_run_is_named_with_its_reason(found):
    (line,) = [line for line in train_step.lines(found) if line.startswith("| FlaxRoberta")]
    assert found["sides"]["FlaxRoberta"]["failed"] in line and "no/python" in line


@pytest.mark.parametrize("ours", [{}, {OURS: {"failed": "no memory"}}])
def test_without_our_side_there_are_rates_and_no_ratios(found, ours, tmp_path):
    alone = found | {"sides": ours | {name: found["sides"][name] for name in (LIMIT, "PyTorch eager")}}
    rows = [row for row in train_step.rows_of(alone) if "failed" not in row]
    assert len(rows) == 2 and all(row["tokens/s"]["median"] > 0 and "ratio" not in row for row in rows)
    assert all(line.split(" | ")[2] == "" for line in train_step.lines(alone)[4:] if "no memory" not in line)
    text = report.write({"step": [{"command": "", "found": alone}]}, "2026-01-02", tmp_path).read_text()
    assert "| PyTorch eager |" in text and "training step of" not in text


def test_without_the_limit_the_report_has_no_share_of_it(found):
    sides = {name: found["sides"][name] for name in (OURS, "PyTorch eager")}
    (row,) = report.summary({"step": [{"found": found | {"sides": sides}}]})[3:]
    assert "PyTorch eager" in row and LIMIT not in row


@pytest.mark.parametrize("side", SIDES)
def test_every_side_has_huge_pages(side, monkeypatch):
    monkeypatch.setattr(train_step, "use_huge_pages", lambda: sys.exit("asked for"))
    monkeypatch.setattr(train_step.os, "dup", lambda _: sys.exit("not asked for"))  # the next that a worker does
    with pytest.raises(SystemExit, match="^asked for"):
        train_step.work(side, SMALL)


def test_what_nvidia_smi_says_in_failing_is_no_gpu(tmp_path, monkeypatch):
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho NVIDIA-SMI has failed\nexit $CODE\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for code, said in (("9", ""), ("0", "NVIDIA-SMI has failed")):
        monkeypatch.setenv("CODE", code)
        assert train_step.gpus() == said


def test_the_report_is_written_from_what_is_kept(found, tmp_path, monkeypatch):
    kept = {"step": [{"command": "python -m benchmarks.train_step", "found": found}]}
    day = "2026-01-02"
    monkeypatch.setattr(report, "date", SimpleNamespace(today=lambda: date.fromisoformat(day)))
    (tmp_path / f"performance-{day}.json").write_text(json.dumps(kept))
    (tmp_path / f"performance-{day}-notes.md").write_text("## What holds the rest\n\nMemory.\n")
    monkeypatch.setattr(sys, "argv", ["report", "--parts=", f"--out={tmp_path}"])
    report.main()
    text = (tmp_path / f"performance-{day}.md").read_text()
    assert "    python -m benchmarks.train_step\n" in text and "| PyTorch eager |" in text and text.endswith("Memory.\n")
    assert "| training step of tiny, 8 × 32 |" in text.partition("## One step")[0]
    assert (tmp_path / f"performance-{day}.png").stat().st_size > 10_000


def test_a_part_of_the_report_that_cannot_run_is_named_with_its_reason(tmp_path, monkeypatch):
    monkeypatch.setitem(report.PARTS, "tokenizer", ("Encoding", "tokenizer", ["--files no/where"]))
    monkeypatch.setattr(sys, "argv", ["report", "--parts=tokenizer", f"--out={tmp_path}"])
    report.main()
    (text,) = (path.read_text() for path in tmp_path.glob("*.md"))
    assert "    python -m benchmarks.tokenizer --files no/where\n\nIt failed: " in text and "no/where" in text.splitlines()[-1]


def test_what_a_comparison_found_stands_in_its_lines(tmp_path, capsys, monkeypatch):
    (tmp_path / "text.txt").write_text(report.__doc__ + train_step.__doc__ + tokenizer.__doc__)
    monkeypatch.setattr(sys, "argv", ["tokenizer", "--files", str(tmp_path / "text.txt"), "--rounds=2", "--json"])
    tokenizer.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found["same_ids"] and found["rounds"] == 2
    rate, lines = found["rates"]["roberta_jax"], tokenizer.lines(found)
    assert f"| roberta_jax | {rate['median']:,.2f} | {rate['smallest']:,.2f} | {rate['largest']:,.2f} |" in lines
    (row,) = report.summary({"tokenizer": [{"found": found}]})[3:]
    assert f"{found['ratios'][BATCH]['median']:.2f} (" in row and BATCH in row


def test_attentions_are_compared_with_float32(capsys, monkeypatch):
    shape = ["--rows=2", "--length=128", "--heads=2", "--steps=1", "--rounds=1"]
    monkeypatch.setattr(sys, "argv", ["attentions", *shape, "--json"])
    attentions.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    for of_kernel, of_xla in zip(found["differences"]["kernel"], found["differences"]["XLA"]):
        assert 0 < of_kernel < 2 * of_xla
    assert sum(line.startswith("| kernel |") for line in attentions.lines(found)) == 2


def test_attentions_name_no_kernel_that_is_xlas():
    inputs = attentions.random_inputs(1, 100, 2, 48, attentions.two_segments(1, 100))
    with pytest.raises(UserError, match="rows of 100 and heads of 48 have no kernel on cpu"):
        attentions.forward_and_backward(attentions.own_kernel, 2, 0.0)(*inputs)


def test_a_side_may_time_itself():
    seconds = in_turn({"itself": lambda: 7.0, "by the clock": lambda: None}, 3)
    assert seconds["itself"] == [7.0] * 3 and 0 < max(seconds["by the clock"]) < 7


def test_the_trainers_time_is_that_of_its_steps(tmp_path, monkeypatch):
    """By a clock that only a step moves, by one, and what the Trainer sets up, by a hundred."""
    transformers, now = pytest.importorskip("transformers"), [0.0]

    def slowly(name: str, seconds: float) -> None:
        whole = getattr(transformers.Trainer, name)

        def method(*args, **kwargs):
            now[0] += seconds
            return whole(*args, **kwargs)

        monkeypatch.setattr(transformers.Trainer, name, method)

    slowly("get_train_dataloader", 100)
    slowly("training_step", 1)
    monkeypatch.setattr(finetune, "time", SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(finetune, "BATCH_SIZE", 2)
    features = SimpleNamespace(rows=[(np.array([0, 5, 2]),)] * 8, labels=np.zeros(8, int))
    config = RobertaConfig(64, num_layers=1, max_length=8)
    assert finetune.trainers(features, config, False, 3, str(tmp_path))() == 3


def test_a_stream_of_batches_goes_with_its_turn():
    taken, closed = [], []

    def stream():
        try:
            while True:
                taken.append(None)
                yield
        finally:
            closed.append(None)

    assert input_pipeline.seconds_of(stream(), 3) > 0
    assert len(taken) == 1 + 3 and closed


def test_vectors_without_assets_and_beside_a_side_that_fails(tmp_path, capsys, monkeypatch):
    pytest.importorskip("transformers")
    whole, clock = inference.torch_embed, iter([3.0, 2.0, 1.0])

    def embed(folder, device, size, compiled):
        if size == 3:
            raise RuntimeError("no C compiler")
        return whole(folder, device, size, compiled)

    monkeypatch.setattr(inference, "ASSETS", tmp_path)
    monkeypatch.setattr(inference, "documents", lambda *_: [inference.__doc__])  # the whole Python's take a minute to read
    monkeypatch.setattr(inference, "torch_embed", embed)
    monkeypatch.setattr(inference, "in_turn", lambda sides, _: {side: [next(clock)] for side in sides})
    sizes = ["--batch_size", "2", "3", "4"]
    monkeypatch.setattr(sys, "argv", ["inference", "--sentences=6", "--rounds=1", "--layers=1", "--json", *sizes])
    inference.main()
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(found["rates"]) == [OURS, "transformers, batches of 4", "transformers, batches of 2"]  # the fastest first
    assert found["sentences"] == 6 and found["largest_difference"] < 1e-4
    assert "| transformers, batches of 3 | no C compiler | | |" in inference.lines(found)


WITHOUT = """if True:
    import os, runpy, sys
    for name in {missing!r}:
        sys.modules[name] = None
    for name in {benchmarks!r}:
        sys.argv = [name, *["--model=x"] * (name == "vectors")]
        try:
            runpy.run_module("benchmarks." + name, run_name="__main__")
        except SystemExit as end:
            print(name, end.code, file=sys.stderr)
"""


def test_what_a_benchmark_lacks_is_a_sentence_before_it_works():
    missing = "tensorflow ml_collections tensorboardX torch transformers datasets sentence_transformers matplotlib".split()
    named = "checkpoint compiled_step finetune group_texts growth inference input_pipeline kill_campaign minimal_pairs".split()
    named += ["report", "startup", "vectors", "whole_run"]
    code = WITHOUT.format(missing=missing, benchmarks=named)
    environment = os.environ | {"GLIBC_TUNABLES": ""}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    lines = done.stderr.splitlines()
    assert lines[1::2] == [f"{name} 2" for name in named], done.stderr
    assert all("not installed, and needed here: pip install " in line for line in lines[::2])


def test_data_that_a_benchmark_lacks_are_named(tmp_path):
    with pytest.raises(UserError, match="absent is not there"):
        needs(paths=[tmp_path / "absent"])


BENCHMARKS = [path for path in Path(attentions.__file__).parent.glob("*.py") if "def main" in path.read_text()]


@pytest.mark.parametrize("path", sorted(BENCHMARKS), ids=lambda path: path.stem)
def test_a_benchmark_ends_with_a_sentence(path):
    if path.stem != "gpu_stages":  # `on_gpu` keeps what its stages say
        assert path.read_text().endswith("    exit_with_sentence(main)\n")


def test_cases_are_all_that_the_fields_give(monkeypatch, capsys):
    kept = lambda cases, *_: [{"case": dataclasses.asdict(case), "sides": {}} for case in cases]  # noqa: E731
    monkeypatch.setattr(train_step, "measure", kept)
    monkeypatch.setattr(train_step, "rows_of", lambda found: [])
    monkeypatch.setattr(sys, "argv", ["train_step", "--shape=base,large", "--length=512,128", "--rows=2", "--json"])
    train_step.main()
    cases = [json.loads(line)["case"] for line in capsys.readouterr().out.splitlines()]
    assert [(case["shape"], case["length"]) for case in cases] == [(s, n) for s in ("base", "large") for n in (512, 128)]


def replaced_in_the_package(text: str) -> list[str]:
    """What a benchmark puts in the place of something in the package's modules or classes."""
    tree = ast.parse(text)
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
    ours = {
        alias.asname or alias.name.split(".")[0]
        for node in imported
        for alias in node.names
        if (getattr(node, "module", None) or alias.name).split(".")[0] == "roberta_jax"
    }
    targets = [
        target
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign | ast.AugAssign)
        for target in getattr(node, "targets", [getattr(node, "target", None)])
        if isinstance(target, ast.Attribute)
    ]
    calls = [node.args[0] for node in ast.walk(tree) if isinstance(node, ast.Call) and ast.unparse(node.func) == "setattr"]
    named = [*(target.value for target in targets), *calls]
    return [ast.unparse(each) for each in named if ast.unparse(each).split(".")[0] in ours]


@pytest.mark.parametrize("path", sorted(Path(attentions.__file__).parent.rglob("*.py")), ids=lambda path: path.stem)
def test_a_benchmark_measures_the_package_as_it_is(path):
    assert not replaced_in_the_package(path.read_text())


def test_what_a_benchmark_would_put_in_its_place_is_found():
    assert replaced_in_the_package("from roberta_jax.model import encoder\nencoder.attend = 1")
    assert replaced_in_the_package("import roberta_jax\nroberta_jax.plan.compile_step = 1")
    assert replaced_in_the_package("from roberta_jax import plan\nsetattr(plan, 'compile_step', 1)")


def test_jaxs_attention_is_one_of_the_models_once_it_is_offered(monkeypatch):
    monkeypatch.setattr(attentions, "splash", lambda qkv, *_: qkv[..., : qkv.shape[-1] // 3])
    monkeypatch.setitem(attentions.ATTENTIONS, "jax", None)  # taken away again afterwards
    config = roberta_config(dataclasses.replace(SMALL, attention="jax"))
    ones = jax.numpy.ones((1, 8), int)
    values = [
        apply_masked_lm(init_masked_lm(jax.random.key(0), chosen), chosen, ones, ones, ones)
        for chosen in (config, dataclasses.replace(config, attention="xla"))
    ]
    assert not np.allclose(*values)
