"""What a job will need: the reading of compiled text, the arithmetic, the sentences; compiled for TPUs where libtpu is."""

import importlib
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
from task_files import random_model

from roberta_jax import plan, planning
from roberta_jax.config import typed
from roberta_jax.errors import UserError
from roberta_jax.hardware import GIB, parse_topology
from roberta_jax.hlo_analysis import COLLECTIVES, Collective, matmul_flops, read_step
from roberta_jax.model.config import RobertaConfig
from roberta_jax.model.flops import activation_bytes, train_flops
from roberta_jax.model.heads import apply_masked_lm, init_masked_lm
from roberta_jax.pretraining.config import PretrainConfig

ROOT = Path(__file__).parent.parent
BASE = PretrainConfig(microbatch_size=16, model=RobertaConfig(dtype="bfloat16"))

# A loop of three around a loop of two, as a TPU's compiler prints them. S(1) is not HBM.
TEXT = """HloModule jit_train_step, is_scheduled=true

%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[]{:T(128)} parameter(0)
  %b = f32[]{:T(128)} parameter(1)
  ROOT %c = f32[]{:T(128)} add(%a, %b)
}

%fused (p0: f32[12,8,4], p1: s32[]) -> f32[8,4] {
  %p0 = f32[12,8,4]{2,1,0:T(8,128)} parameter(0)
  %p1 = s32[]{:T(128)} parameter(1)
  ROOT %slice = f32[1,8,4]{2,1,0:T(8,128)} dynamic-slice(%p0, %p1, %p1, %p1), dynamic_slice_sizes={1,8,4}
}

%all-reduce-scatter (p0: f32[8,4]) -> f32[4,4] {
  %p0 = f32[8,4]{1,0} parameter(0)
  %all-reduce.2 = f32[8,4]{1,0} all-reduce(%p0), replica_groups={{0,1},{2,3}}, to_apply=%sum
  ROOT %own = f32[4,4]{1,0} dynamic-slice(%all-reduce.2), dynamic_slice_sizes={4,4}
}

%inner_body (p: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %p = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)} get-tuple-element(%p), index=0
  %x = f32[8,4]{1,0:T(8,128)} get-tuple-element(%p), index=1
  %gathered = f32[16,4]{1,0:T(8,128)S(1)} all-gather(%x), replica_groups=[2,2]<=[4], dimensions={0}
  ROOT %out = (s32[]{:T(128)}, /*index=1*/f32[8,4]{1,0:T(8,128)}) tuple(%i, %x)
}

%inner_condition (p.1: (s32[], f32[8,4])) -> pred[] {
  %p.1 = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  ROOT %less = pred[]{:T(512)} compare(%i.1, %i.1), direction=LT
}

%body (q: (s32[], f32[8,4])) -> (s32[], f32[8,4]) {
  %q = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) parameter(0)
  %y = f32[8,4]{1,0:T(8,128)} get-tuple-element(%q), index=1
  %all-reduce.1 = (f32[8,4]{1,0}, bf16[8]{0}) all-reduce(%y, %half), replica_groups=mesh['a'=2,'b'=2] {'a','b'}, to_apply=%sum
  %half = bf16[8]{0:T(128)S(1)} constant({...})
  %inner = (s32[], f32[8,4]) while(%q), condition=%inner_condition, body=%inner_body, known_trip_count={"n":"2"}
  ROOT %next = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) tuple(%y, %y)
}

%condition (q.1: (s32[], f32[8,4])) -> pred[] {
  %three = s32[]{:T(128)} constant(3)
  %q.1 = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) parameter(0)
  %j = s32[]{:T(128)} get-tuple-element(%q.1), index=0
  ROOT %less.1 = pred[]{:T(512)} compare(%j, %three), direction=LT
}

ENTRY %main (stack: f32[12,8,4], start: (s32[], f32[8,4])) -> f32[8,4] {
  %stack = f32[12,8,4]{2,1,0:T(8,128)} parameter(0)
  %start = (s32[]{:T(128)}, f32[8,4]{1,0:T(8,128)}) parameter(1)
  %zero = s32[]{:T(128)S(6)} constant(0)
  %layer = f32[8,4]{1,0:T(8,128)} fusion(%stack, %zero), kind=kLoop, calls=%fused
  %scattered = f32[4,4]{1,0:T(8,128)S(1)} fusion(%layer), kind=kCustom, calls=%all-reduce-scatter
  ROOT %loop = (s32[], f32[8,4]) while(%start), condition=%condition, body=%body
}
"""


def test_collectives_count_as_often_as_their_loops_run():
    step = read_step(TEXT)
    assert step.by_kind() == {
        "reduce-scatter": {"count": 1, "bytes": 8 * 4 * 4},
        "all-reduce": {"count": 3, "bytes": 3 * (8 * 4 * 4 + 8 * 2)},
        "all-gather": {"count": 6, "bytes": 6 * 16 * 4 * 4},
    }
    assert {one.kind: one.group for one in step.collectives} == {"reduce-scatter": 2, "all-reduce": 4, "all-gather": 2}
    assert step.unknown_loops == 0


def test_a_loop_whose_runs_are_not_known_counts_once_and_is_told():
    step = read_step(TEXT.replace("constant(3)", "parameter(1)"))
    assert step.by_kind()["all-reduce"]["count"] == 1 and step.unknown_loops == 1


def test_hbm_bytes_are_those_of_slices_and_not_of_other_memories():
    array = 8 * 4 * 4
    outside = 2 * array + array  # the layer, sliced and written; read by the scatter, which writes elsewhere
    reduced = 3 * (array + array + 16)  # in and out; the other operand lies elsewhere
    gathered = 6 * array  # read; the result lies elsewhere
    conditions = 3 * (1 + 2 * 4) + 6 * (1 + 2 * 4)  # the compared integers
    assert read_step(TEXT).hbm_bytes == outside + reduced + gathered + conditions


def test_a_step_moves_as_much_under_each_jax():
    texts = {path.stem: path.read_text() for path in sorted((Path(__file__).parent / "compiled").glob("h100x8-*.txt"))}
    assert [name.split("-")[-1][:4] for name in texts] == ["0.10", "0.11", "0.12"]
    assert ["fusion-start" in text for text in texts.values()] == [False, True, True]  # what one of them writes anew
    steps = [read_step(text) for text in texts.values()]
    assert max(step.hbm_bytes for step in steps) < 1.1 * min(step.hbm_bytes for step in steps)
    gradient = 6 * 256 * 256 * 4
    for step in steps:
        assert step.by_kind() == {kind: {"count": 1, "bytes": gradient} for kind in ("reduce-scatter", "all-gather")}
        assert not step.unknown_opcodes and not step.unknown_loops


def test_a_tpus_text_of_a_later_libtpu():
    step = read_step((Path(__file__).parent / "compiled" / "v5e-2x4-jax-0.11.2.txt").read_text())
    gradient = 6 * 256 * 256 * 4
    assert step.by_kind() == {kind: {"count": 1, "bytes": gradient} for kind in ("reduce-scatter", "all-gather")}
    assert not step.unknown_opcodes and not step.unknown_loops
    assert 3 * gradient < step.hbm_bytes < 6 * gradient  # much of it stays in the chip's own memory


A, B, ELSEWHERE = "f32[8,4]{1,0}", "f32[8,16]{1,0}", "f32[8,4]{1,0:S(1)}"
SMALL, LARGE = 8 * 4 * 4, 8 * 16 * 4
AMONG = "replica_groups=[1,4]<=[4]"


@pytest.mark.parametrize(
    ("shape", "operation", "result", "moved"),
    [
        (f"(({A}), {B}, u32[])", "fusion-start(%a), kind=kLoop, calls=%widen", B, SMALL + LARGE),
        (f"(({A}), {B})", "fusion-start(%a), kind=kLoop, calls=%widen", B, SMALL + LARGE),
        (f"(({A}, {A}), ({A}, {A}), u32[])", "sort-start(%a, %a), to_apply=%sum", f"({A}, {A})", 4 * SMALL),
        (f"(({B}), {A}, u32[])", "slice-start(%b), slice={[0:8], [0:4]}", A, 2 * SMALL),
        (f"(({B}), {ELSEWHERE}, u32[])", "slice-start(%b), slice={[0:8], [0:4]}", ELSEWHERE, SMALL),
        (f"({A}, {A}, u32[])", "copy-start(%a)", A, 2 * SMALL),
        (f"({ELSEWHERE}, {A}, u32[])", "copy-start(%a)", ELSEWHERE, SMALL),
        (f"(({A}), {B}, u32[])", 'custom-call-start(%a), custom_call_target="x"', B, SMALL + LARGE),
        (f"({A}, {B})", f"all-gather-start(%a), {AMONG}", B, SMALL + LARGE),
        (f"(({A}), {B})", f"all-gather-start(%a), {AMONG}", B, SMALL + LARGE),
        (A, f"all-reduce-start(%a), {AMONG}, to_apply=%sum", A, 2 * SMALL),
        (f"({A}, {A})", f"all-reduce-start(%a, %a), {AMONG}, to_apply=%sum", f"({A}, {A})", 4 * SMALL),
        (f"(({A}), {A})", f"all-reduce-start(%a), {AMONG}, to_apply=%sum", A, 2 * SMALL),
        (f"({A}, {A}, u32[], u32[])", "collective-permute-start(%a), source_target_pairs={{0,1}}", A, 2 * SMALL),
        (f"(({A}), {B}, u32[])", "async-start(%a), calls=%wrapped", B, SMALL + LARGE),
        (f"(({A}), {B}, u32[])", "call-start(%a), to_apply=%wrapped", B, SMALL + LARGE),
    ],
)
def test_what_is_begun_and_done_elsewhere_counts_as_if_it_were_not(shape, operation, result, moved):
    opcode = operation.split("-start")[0]
    step = read_step(f"""HloModule test
%sum (x: f32[], y: f32[]) -> f32[] {{
  %x = f32[] parameter(0)
  %y = f32[] parameter(1)
  ROOT %z = f32[] add(%x, %y)
}}
%widen (p: f32[8,4]) -> f32[8,16] {{
  %p = {A} parameter(0)
  %twice = {A} add(%p, %p)
  ROOT %wide = {B} pad(%twice, %p), padding=0_0x0_12
}}
%wrapped (q: f32[8,4]) -> f32[8,16] {{
  %q = {A} parameter(0)
  ROOT %inner = {B} fusion(%q), kind=kLoop, calls=%widen
}}
ENTRY %main (a: f32[8,4], b: f32[8,16]) -> f32[8,16] {{
  %a = {A} parameter(0)
  %b = {B} parameter(1)
  %begun = {shape} {operation}
  ROOT %done = {result} {opcode}-done(%begun)
}}
""")
    assert step.hbm_bytes == moved and not step.unknown_opcodes
    assert [one.kind for one in step.collectives] == [kind for kind in COLLECTIVES if kind == opcode]


@pytest.mark.parametrize(
    ("kind", "sent"), [("all-reduce", 150), ("all-gather", 75), ("reduce-scatter", 75), ("collective-permute", 100)]
)
def test_what_a_chip_sends(kind, sent):
    assert Collective(kind, 100, 4, 1).wire == sent
    assert Collective(kind, 100, 4, 10).wire == 10 * sent
    assert Collective(kind, 100, 1, 1).wire == 0


@pytest.mark.parametrize("remat", ["none", "full"])
def test_products_of_a_step_are_those_that_the_model_needs(remat):
    config = RobertaConfig(400, 3, 32, 64, 4, max_length=16, remat=remat)
    params = jax.eval_shape(lambda key: init_masked_lm(key, config), jax.random.key(0))
    ids, slots = jnp.zeros((2, 16), jnp.int32), jnp.zeros((2, 5), jnp.int32)

    def loss(params, microbatches):
        return sum(jax.lax.map(lambda ids: apply_masked_lm(params, config, ids, ids, slots).sum(), microbatches))

    found = matmul_flops(jax.make_jaxpr(jax.grad(loss))(params, jnp.stack([ids] * 3)).jaxpr)
    needed = train_flops(config, 6, 16, 5)
    if remat == "none":
        # The gradients of the head's bias, but on TPUs, and of the places that it takes: see layers and embedding.
        assert found == needed + 2 * 3 * 10 * 400 + 2 * 3 * 10 * 16 * 32
    else:  # a block's forward products again, but for the last, whose result only the next block needs
        assert 1.1 * needed < found < 4 / 3 * needed


def test_topologies():
    pod, part, cube = map(parse_topology, ("v5e:16x16", "v5e:2x4", "v5p:4x4x4"))
    assert (pod.chips, pod.shape, pod.egress_bandwidth) == (256, (16, 16), 200e9)
    assert (part.chips, part.egress_bandwidth) == (8, 100e9)  # two of four links each way, and no rings
    assert (cube.chips, cube.egress_bandwidth) == (64, 600e9)
    assert parse_topology("gpu:h100x8").egress_bandwidth == 450e9


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("v5e", "expected a TPU slice as v5e:16x16"),
        ("v9:2x2", "plan knows the TPUs v4, v5e, v5p, v6e"),
        ("gpu:mi300xx8", "plan knows the GPUs a100, a100-40gb, .*h100, h100-pcie"),
        ("gpu:h100x16", "one machine of 1 to 8 GPUs"),
    ],
)
def test_topologies_that_plan_does_not_know(name, message):
    with pytest.raises(UserError, match=message):
        parse_topology(name)


def test_the_roofline(monkeypatch):
    needs = planning.Needs({"parameters": 1e9, "batch": 1e9}, 819e9, 400e9, 98.5e12, None, {}, True, unknown_loops=2)
    monkeypatch.setattr(planning, "compiled", lambda *_: needs)
    report = planning.estimate(BASE, parse_topology("v5e:16x16"))
    assert report["seconds"] == {"compute": 0.5, "HBM": 1.0, "interconnect": 2.0} and report["binds"] == "interconnect"
    assert (report["bound"]["seconds"], report["in_turn"]["seconds"], report["forecast"]) == (2.0, 3.5, None)
    assert report["memory_used"] == 2e9 and report["memory_had"] == 15.75 * GIB
    assert report["bound"]["mfu"] == pytest.approx(train_flops(BASE.model, 8192, 512, 78) / 256 / 2 / 197e12)
    assert report["bound"]["tokens_per_second"] == 8192 * 512 / 2
    assert report["bound"]["days"] == pytest.approx(500_000 * 2 / 86_400)
    assert report["in_turn"]["chip_hours"] == pytest.approx(500_000 * 3.5 / 3600 * 256)
    with pytest.raises(planning.DoesNotFit, match="needs 1.86 of 1.00 GiB HBM"):  # though the compiler let it pass
        planning.estimate(BASE, replace(parse_topology("v5e:16x16"), chip=replace(parse_topology("v5e:2x2").chip, hbm=GIB)))
    assert "2 loops run nobody knows how often" in "\n".join(plan.table(report))
    assert any("binds" in line and "interconnect" in line for line in plan.table(report))


def lines_of(report: dict, *beginnings: str) -> list[list[str]]:
    return [line.split() for line in plan.table(report) if line.strip().startswith(beginnings)]


def test_in_turn_leads_and_a_forecast_comes_with_a_measured_ratio(monkeypatch):
    needs = planning.Needs({"parameters": 1e9}, 819e9, 400e9, 98.5e12, None, {}, True)
    monkeypatch.setattr(planning, "compiled", lambda *_: needs)
    topology = parse_topology("v5e:16x16")
    report = planning.estimate(BASE, topology)
    assert lines_of(report, "in turn  ", "seconds a step") == [["in", "turn", "bound"], ["seconds", "a", "step", "3.5", "2"]]
    report = planning.estimate(BASE, replace(topology, chip=replace(topology.chip, measured=1.2)))
    assert report["forecast"]["seconds"] == pytest.approx(1.2 * 3.5)
    assert report["forecast"]["mfu"] == pytest.approx(report["in_turn"]["mfu"] / 1.2)
    assert lines_of(report, "forecast  ", "seconds a step")[1][3:] == ["4.2", "3.5", "2"]
    assert "at best" not in "\n".join(plan.table(report))


def test_the_peak_is_that_of_the_runs_arithmetic(monkeypatch):
    needs = planning.Needs({"parameters": 1e9}, 1.0, 0.0, 989e12, None, {}, True)
    monkeypatch.setattr(planning, "_cuda", lambda: True)
    monkeypatch.setattr(planning, "compiled", lambda *_: needs)
    h100 = parse_topology("gpu:h100x1")
    assert planning.estimate(BASE, h100)["seconds"]["compute"] == 1
    assert planning.estimate(replace(BASE, model=replace(BASE.model, dtype="float32")), h100)["seconds"]["compute"] == 2  # TF32


def test_an_opcode_that_the_reader_does_not_know_is_counted_and_said(monkeypatch):
    text = TEXT.replace("ROOT %next", "%new = (f32[8,4]{1,0}, f32[8,4]{1,0}) teleport(%y)\n  ROOT %next")
    step, before = read_step(text), read_step(TEXT)
    assert step.unknown_opcodes == {"teleport": 3} and before.unknown_opcodes == {}
    assert step.hbm_bytes == before.hbm_bytes  # not guessed
    needs = planning.Needs({"parameters": 1e9}, 1e9, 0.0, 1e12, None, {}, True, unknown_opcodes=dict(step.unknown_opcodes))
    monkeypatch.setattr(planning, "compiled", lambda *_: needs)
    report = planning.estimate(BASE, parse_topology("v5e:2x2"))
    assert report["unknown_opcodes"] == {"teleport": 3}
    assert "does not know count nothing: teleport 3 times" in "\n".join(plan.table(report))


def test_gpus_are_estimated_without_cudas_plugin_and_said_to_be(monkeypatch):
    monkeypatch.setattr(planning.importlib.util, "find_spec", lambda name: None)
    report = planning.estimate(BASE, parse_topology("gpu:h100x8"))
    assert not report["sure"] and "less sure" in "\n".join(plan.table(report))
    state = sum(report["memory"][name] for name in ("parameters", "optimizer state", "gradients"))
    assert state == 16 * 124_697_433
    one = planning.estimate(BASE, parse_topology("gpu:h100x1"))
    assert one["seconds"]["interconnect"] == 0 and one["collectives"] == {}
    assert one["seconds"]["compute"] == pytest.approx(8 * report["seconds"]["compute"])
    with pytest.raises(UserError, match="microbatch_size is 48, which does not divide a device's share of 1024 rows"):
        planning.estimate(replace(BASE, microbatch_size=48), parse_topology("gpu:h100x8"))
    with pytest.raises(planning.DoesNotFit, match="does not fit: needs"):
        planning.estimate(replace(BASE, microbatch_size=1024), parse_topology("gpu:h100x8"))
    small = [activation_bytes(replace(BASE.model, remat=remat), 16, 512, 78) for remat in planning.REMAT]
    assert small == sorted(small, reverse=True)
    by_xla = activation_bytes(replace(BASE.model, attention="xla"), 16, 512, 78)
    assert by_xla - small[0] == 2 * 16 * 12 * 12 * 512**2  # the probabilities, in bfloat16


def test_a_search_leaves_out_what_it_can_know(monkeypatch, capsys):
    """16 rows fit without remat, 32 with "dots", 64 with "full"; fsdp does not help."""
    seen = []

    def estimate(config, topology):
        seen.append((config.microbatch_size, config.model.remat, config.fsdp))
        if config.microbatch_size > {"none": 16, "dots": 32, "full": 64}[config.model.remat]:
            raise planning.DoesNotFit("does not fit: needs 20 of 15.75 GiB HBM.")
        seconds = {"none": 3.0, "dots": 2.0, "full": 4.0}[config.model.remat]
        return {"in_turn": {"seconds": seconds}, "tried": seen[-1]}

    monkeypatch.setattr(planning, "estimate", estimate)
    assert planning.search(BASE, parse_topology("v5e:2x4"), 50)["tried"] == (32, "dots", 1)
    without_fsdp = [tried for tried in seen if tried[2] == 1]
    assert (8, "none", 1) not in seen and (16, "dots", 1) not in seen and (64, "full", 1) in seen
    assert len(set(seen)) == len(seen) and without_fsdp
    assert "microbatch_size 32, remat dots, fsdp 1: 2 s" in capsys.readouterr().err
    seen.clear()
    planning.search(BASE, parse_topology("v5e:2x4"), 5)
    assert len(seen) == 5 and "stopped after 5 trials" in capsys.readouterr().err
    monkeypatch.setattr(planning, "estimate", lambda *_: (_ for _ in ()).throw(planning.DoesNotFit("does not fit")))
    with pytest.raises(UserError, match="nothing that was tried fits v5e:2x4"):
        planning.search(BASE, parse_topology("v5e:2x4"), 3)
    with pytest.raises(UserError, match="batch_size is 4; expected a row at least for each of 8 chips"):
        planning.search(replace(BASE, batch_size=4), parse_topology("v5e:2x4"), 3)


def test_the_model_that_goes_on_is_the_one_that_is_planned_for(small_corpus, tmp_path, monkeypatch):
    """Its sizes take the place of the config's; rows longer than it has positions for get more."""
    for name in ("JAX_PLATFORMS", "TPU_SKIP_MDS_QUERY", "TPU_WORKER_HOSTNAMES", "ALLOW_MULTIPLE_LIBTPU_LOAD"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    fields = importlib.import_module("configs.base").get_config()
    fields.init_from = str(random_model(small_corpus.tokenizer, tmp_path / "model"))
    where = parse_topology("gpu:h100x1")
    model = planning.read_config(fields.to_dict(), where).model
    assert (model.num_layers, model.hidden_size, model.vocab_size) == (1, 32, len(small_corpus.tokenizer))
    assert model.max_length == 512 and model.dtype == fields.model.dtype
    fields.new_vocabulary = True
    assert planning.read_config(fields.to_dict(), where).model.vocab_size == 50_265
    fields.phases = "steps=0.9 data.length=128,data.length=1024"
    assert planning.read_config(fields.to_dict(), where).model.max_length == 1024


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (
            "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO temporaries (21.75G) exceeds "
            "available HBM (15.75G).",
            "does not fit: needs 21.75 GiB of 15.75 GiB HBM for temporaries alone.",
        ),
        ("RESOURCE_EXHAUSTED: … Used 20.10G of 15.75G hbm. Exceeded", "does not fit: needs 20.10 GiB of 15.75 GiB HBM."),
        ("RESOURCE_EXHAUSTED: of another\nkind", "does not fit: RESOURCE_EXHAUSTED: of another kind"),
    ],
)
def test_what_the_compiler_says_becomes_a_sentence(message, sentence):
    assert planning.exhausted(message) == sentence


def crash(config, topology):
    os.kill(os.getpid(), signal.SIGSEGV)


def test_a_compiler_that_crashes_is_a_sentence_too():
    with pytest.raises(planning.DoesNotFit, match="the compiler crashed"):
        planning.compiled(BASE, parse_topology("v6e:8x8"), crash)


def run(*arguments: str, python: str = sys.executable) -> subprocess.CompletedProcess:
    command = [python, "-m", "roberta_jax.plan", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--config=configs/tiny.py"], 2, "topology"),
        (["--config=configs/tiny.py", "--topology=v5e"], 2, "expected a TPU slice as v5e:16x16"),
        (["--config=configs/none.py", "--topology=gpu:h100x1"], 2, "configs/none.py"),
        (["--config=configs/tiny.py", "--config.job=bake", "--topology=gpu:h100x1"], 2, "config.job is 'bake'"),
        (["--config=configs/base.py", "--config.microbatch_size=1024", "--topology=gpu:h100x8"], 1, "does not fit: needs"),
    ],
)
def test_a_mistake_is_one_sentence(arguments, code, message):
    done = run(*arguments)
    assert done.returncode == code and message in done.stderr, done.stderr
    assert "Traceback" not in done.stderr and done.stdout == ""


def test_without_libtpu_a_slice_is_refused_and_gpus_are_not(monkeypatch):
    monkeypatch.setattr(planning.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="a TPU slice needs libtpu"):
        planning.plan({"job": "pretrain"}, parse_topology("v5e:2x2"), False, 1, None)


def test_json_and_price_and_help():
    done = run("--config=configs/base.py", "--topology=gpu:h200x8", "--price_per_chip_hour=3", "--json")
    report = json.loads(done.stdout)
    for name in ("in_turn", "bound"):
        assert report[name]["cost"] == 3 * report[name]["chip_hours"], done.stderr
    code = "import sys, roberta_jax.plan; sys.exit('jax' in sys.modules or 'tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def of_python(variable: str, extra: str) -> partial:
    """`run` by the Python that has what it needs, of which the machine's variable tells."""
    python = os.environ.get(variable)
    if not python:
        pytest.skip(f"{variable} does not name a Python that has this package and pip install -e '.[{extra}]'")
    return partial(run, python=python)


@pytest.fixture(scope="module")
def tpu():
    return of_python("ROBERTA_TPU_PYTHON", "tpu")


@pytest.fixture(scope="module")
def cuda():
    return of_python("ROBERTA_CUDA_PYTHON", "cuda")


def test_tiny_compiles_for_a_slice_that_is_not_there(tpu):
    done = tpu("--config=configs/tiny.py", "--topology=v5e:2x2", "--json")
    report = json.loads(done.stdout)
    assert report["sure"] and report["chips"] == 4 and 0 < report["memory_used"] < report["memory_had"]
    assert report["matmul_flops"] == report["model_flops"]
    parameters = report["memory"]["parameters"]
    assert report["memory"]["optimizer state"] == pytest.approx(2 * parameters / 4, rel=0.05)  # biases are not spread
    sent = {kind: total["bytes"] for kind, total in report["collectives"].items()}
    assert sent.pop("all-gather") == pytest.approx(parameters, rel=0.05)
    assert sum(sent.values()) == pytest.approx(parameters, rel=0.05)  # gradients, once


@pytest.mark.parametrize(
    ("config", "topology"),
    [
        ("base", "v5e:2x4"),
        ("base", "v4:2x2x1"),
        ("large", "v5e:16x16"),
        ("large", "v5p:4x4x4"),
        ("large", "v6e:8x8"),
    ],
)
def test_a_config_compiles_for_the_slices_that_its_header_names(tpu, config, topology):
    done = tpu(f"--config=configs/{config}.py", f"--topology={topology}", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["memory_used"] < report["memory_had"]
    assert report["matmul_flops"] == pytest.approx(report["model_flops"], rel=0.05)  # remat: attention's products again
    assert sum(total["bytes"] for total in report["collectives"].values()) < 2.2 * report["memory"]["parameters"]


def test_what_libtpu_does_not_know_or_hold_is_a_sentence(tpu):
    done = tpu("--config=configs/tiny.py", "--topology=v5e:3x3")
    assert done.returncode == 2 and "error: libtpu does not take --topology=v5e:3x3" in done.stderr
    done = tpu("--config=configs/base.py", "--config.microbatch_size=256", "--topology=v5e:2x4")
    assert done.returncode == 1 and "does not fit: needs" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("config", "topology"),
    [("base", "gpu:a100x1"), ("base", "gpu:h100x8"), ("large", "gpu:h100x8"), ("large", "gpu:h200x2")],
)
def test_a_config_compiles_for_gpus_that_are_not_there_about_as_estimated(cuda, config, topology):
    done = cuda(f"--config=configs/{config}.py", f"--topology={topology}", "--json")
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["sure"] and report["unknown_loops"] == 0
    fields = importlib.import_module(f"configs.{config}").get_config().to_dict()
    estimated = planning.estimate(typed(PretrainConfig, fields), parse_topology(topology))
    for name in ("memory_used", "hbm_bytes", "matmul_flops"):
        assert estimated[name] == pytest.approx(report[name], rel=0.35), name
    parameters = report["memory"]["parameters"]
    sent = {kind: total["bytes"] for kind, total in report["collectives"].items()}
    for kind in ("all-gather", "reduce-scatter") if report["chips"] > 1 else ():  # gradients and parameters, once
        assert sent[kind] == pytest.approx(parameters, rel=0.05)


def test_what_does_not_fit_a_gpu_is_a_sentence(cuda):
    done = cuda("--config=configs/base.py", "--config.microbatch_size=1024", "--topology=gpu:h100x8")
    assert done.returncode == 1 and "does not fit: needs" in done.stderr and "Traceback" not in done.stderr
