"""The stages of `benchmarks.on_gpu`: each measures what it is named for, and records it as soon as it is known.

A function a stage. It has until `run.until`, by `time.monotonic()`, and sizes itself by what is left; what raises within
`run.trying` is recorded as failed, and the stage goes on with the next thing.
"""

import importlib.util
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.metadata import distributions
from pathlib import Path

import numpy as np

from benchmarks import machine
from benchmarks.on_gpu import ROOT, Records
from benchmarks.sides import OURS, Case
from benchmarks.train_step import NO_TIME, measure, nvidia_smi


@dataclass(frozen=True)
class Sizes:
    """What is measured; those of a rehearsal show that it runs, and nothing else."""

    product: int = 8_192  # side of the matrices
    copied: int = 2**32  # bytes
    seconds: float = 1.5  # of each of these, and of the loader
    heads: int = 12  # of 64
    attended: tuple = ((32, 512), (4, 4_096))  # rows and their length
    many: tuple = (2_048, 512)  # of which queries, keys and values have more than 2³¹ elements
    pattern: int = 512  # length of the row whose dropout is looked at
    table: tuple = (50_265, 768)
    tokens: int = 16_384
    step: Case = Case("base", 32, 512, 0.1, "bfloat16")
    large: str = "large"  # the shape beside it; "": none
    steps: int = 10  # in a turn
    pretrained: Case = Case("base", 256, 128, 0.1, "bfloat16", 8_192, microbatch=64)
    fields: tuple = ()  # of the configs besides, for a model of `pretrained`'s shape
    bits: tuple = ("--config.model.num_layers=4", "--config.batch_size=64", "--config.microbatch_size=32")
    flags: tuple = ("", "--xla_gpu_deterministic_ops=true")  # of XLA, with which runs are compared
    at_once: int = 6  # of these runs
    texts: int = 2_000


TINY = Case("tiny", 4, 128, 0.1, "bfloat16", 512)
SMALL_MODEL = (
    "--config.model.num_layers=2",
    "--config.model.hidden_size=128",
    "--config.model.intermediate_size=512",
    "--config.model.num_heads=2",
)
REHEARSAL = Sizes(
    product=256,
    copied=2**24,
    seconds=0.3,
    heads=2,
    attended=((2, 128), (1, 256)),
    many=(3, 128),
    pattern=128,
    table=(512, 128),
    tokens=512,
    step=TINY,
    large="",
    steps=2,
    pretrained=replace(TINY, rows=8, microbatch=4),
    fields=SMALL_MODEL,
    bits=(*SMALL_MODEL, "--config.batch_size=4", "--config.microbatch_size=2"),
    flags=("",),
    at_once=2,
    texts=50,
)


@dataclass
class Run:
    stage: str
    out: Path
    folder: Path  # what has travelled
    scratch: Path  # of all stages, and gone afterwards
    until: float  # by time.monotonic()
    rehearse: bool
    failed: list[str] = field(default_factory=list)

    @property
    def sizes(self) -> Sizes:
        return REHEARSAL if self.rehearse else Sizes()

    @property
    def left(self) -> float:
        return self.until - time.monotonic()

    @property
    def corpus(self) -> Path:
        return self.folder / "corpus"

    @property
    def workdir(self) -> Path:
        """Of the pretraining."""
        return self.scratch / "pretraining"

    def found(self, what: str, **values) -> None:
        Records(self.out).write(self.stage, what, **values)
        print(f"{what}: {json.dumps(values)[:150]}", flush=True)

    def case(self, case: Case, found: dict, **more) -> None:
        """Records what `train_step.measure` found of a side."""
        self.found("case", case=asdict(case), **more, **found)
        if found.get("failed", NO_TIME) != NO_TIME:
            self.failed.append("case")

    def earlier(self, stage: str, what: str) -> list[dict]:
        return [one for one in Records(self.out).read() if (one["stage"], one["what"]) == (stage, what)]

    @contextmanager
    def trying(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            traceback.print_exc()
            self.failed.append(what)
            self.found(what, failed=f"{type(error).__name__}: {str(error)[:500]}")


def seconds_of(function: Callable[[], object], lasting: float) -> float:
    """The median of runs over so many seconds, behind one that warms up."""
    import jax

    jax.block_until_ready(function())
    measured, end = [], time.perf_counter() + lasting
    while not measured or time.perf_counter() < end:
        started = time.perf_counter()
        jax.block_until_ready(function())
        measured.append(time.perf_counter() - started)
    return statistics.median(measured)


def same_bits(function: Callable[[], object], times: int = 3) -> bool:
    """Whether it gives the same bits each time."""
    import jax

    first, *others = (jax.tree.map(lambda x: np.asarray(x).tobytes(), function()) for _ in range(times))
    return all(other == first for other in others)


def with_flag(flag: str) -> dict:
    """The environment of a process with one more flag of XLA's."""
    return os.environ | {"XLA_FLAGS": f"{os.environ.get('XLA_FLAGS', '')} {flag}".strip()}


def far(found, exact) -> dict[str, float]:
    """How far values are from exact ones: at most, and as a share of these by the root of the mean squares."""
    found, exact = (np.asarray(x, np.float32) for x in (found, exact))
    norm = float(np.linalg.norm(exact.ravel()))
    return {
        "most": float(np.abs(found - exact).max()),
        "share": float(np.linalg.norm((found - exact).ravel())) / max(norm, 1e-30),
    }


def environment(run: Run) -> None:
    import jax
    import jax.numpy as jnp

    from roberta_jax.model.flops import measured_matmul_flops

    device = jax.devices()[0]
    packages = {one.name: one.version for one in distributions()}
    names = (
        "jax",
        "jaxlib",
        "jax-cuda13-plugin",
        "flax",
        "optax",
        "orbax-checkpoint",
        "numpy",
        "torch",
        "transformers",
        "triton",
    )
    with run.trying("versions"):
        import tensorflow

        run.found(
            "versions",
            machine=machine(),
            device=device.device_kind,
            driver=nvidia_smi("name,driver_version,memory.total,power.limit,clocks.max.sm"),
            memory=(device.memory_stats() or {}).get("bytes_limit"),
            packages={name: packages[name] for name in names if name in packages} | {"tensorflow": tensorflow.__version__},
            XLA_FLAGS=os.environ.get("XLA_FLAGS", ""),
        )
    with run.trying("product"):
        size = run.sizes.product
        run.found("product", size=size, flops=measured_matmul_flops(size, run.sizes.seconds, "bfloat16"))
    with run.trying("copy"):
        x, added = jnp.zeros(run.sizes.copied // 4, jnp.float32), jax.jit(lambda x: x + 1)
        seconds = seconds_of(lambda: added(x), run.sizes.seconds)
        run.found("copy", bytes=2 * x.nbytes, bandwidth=2 * x.nbytes / seconds)
    with run.trying("to device"):
        host = np.ones(run.sizes.copied // 64, np.float32)
        run.found("to device", bytes=host.nbytes, bandwidth=host.nbytes / seconds_of(lambda: jax.device_put(host), 0.3))
    with run.trying("loader"):
        from roberta_jax.data.corpus import Corpus
        from roberta_jax.data.masking import Masking
        from roberta_jax.data.pipeline import train_batches

        started = time.perf_counter()
        corpus, rows = Corpus(run.corpus), run.sizes.pretrained.rows
        batches = train_batches(corpus, Masking(), rows, seed=0)
        next(batches)
        first, number, begun = time.perf_counter() - started, 0, time.perf_counter()
        while time.perf_counter() < begun + run.sizes.seconds:
            next(batches)
            number += 1
        rate = number * rows * corpus.length / (time.perf_counter() - begun)
        run.found("loader", tokens_per_second=rate, first=first, rows=len(corpus.train), length=corpus.length)


def kernel(run: Run) -> None:
    """The GPU's attention kernel and XLA's attention against XLA's in float32."""
    import jax
    import jax.numpy as jnp

    from benchmarks.attentions import forward_and_backward, gpu_kernel, in_float32, random_inputs, two_segments
    from roberta_jax.model.attention import xla_attention

    heads, sides = run.sizes.heads, {"kernel": gpu_kernel(), "XLA": xla_attention}
    (rows, length), (few, long) = run.sizes.attended
    packed = jnp.sort(jax.random.randint(jax.random.key(2), (rows, length), 1, 9), axis=1).at[:, -length // 8 :].set(0)
    cases = {
        f"{rows} × {length}": two_segments(rows, length),
        f"{few} × {long}": two_segments(few, long),
        f"packed, {rows} × {length}": packed,
        f"rows of padding alone, {rows} × {length}": two_segments(rows, length).at[1::2].set(0),
    }

    def judge(what: str, shares: dict[str, list[float]]) -> None:
        if len(shares) == 2 and not all(ours <= 2 * xlas for ours, xlas in zip(shares["kernel"], shares["XLA"])):
            run.failed.append(f"{what}: the kernel is wrong")

    def compared(name: str, segments: jax.Array, rate: float, timed: bool) -> None:
        shares = {}
        with run.trying(name):
            inputs = random_inputs(*segments.shape, heads, 64, segments)
            exact = in_float32(inputs, heads, rate)
            for side, attention in sides.items():
                with run.trying(name):
                    function = forward_and_backward(attention, heads, rate)
                    distances = [far(a, b) for a, b in zip(function(*inputs), exact)]
                    shares[side] = [distance["share"] for distance in distances]
                    more = {"ms": 1e3 * seconds_of(lambda f=function: f(*inputs), 0.3)} if timed else {}
                    run.found(name, side=side, dropout=rate, values=distances[0], gradient=distances[1], **more)
        judge(name, shares)

    for number, (name, segments) in enumerate(cases.items()):
        compared(name, segments, 0.1, timed=number < 2)

    with run.trying("dropout"):  # of equal probabilities: what is kept of keys j … j + 63 stands in the output
        wide, kept = run.sizes.pattern, {}
        segments, rate = jnp.ones((2, wide), jnp.int32), 0.1
        for side, attention in sides.items():
            found = []
            for start in range(0, wide, 64):
                own = jnp.zeros((wide, 64)).at[jnp.arange(start, start + 64), jnp.arange(64)].set(1)
                value = jnp.broadcast_to(own[None, :, None], (2, wide, heads, 64)).reshape(2, wide, -1)
                qkv = jnp.concatenate([jnp.zeros((2, wide, 2 * heads * 64)), value], -1).astype(jnp.bfloat16)
                inputs = qkv, segments, random_inputs(2, wide, heads, 64, segments)[2], jnp.zeros_like(value, jnp.bfloat16)
                values = forward_and_backward(attention, heads, rate)(*inputs)[0]  # the gradient is not looked at
                found.append(np.asarray(values, np.float32).reshape(2, wide, heads, 64) > 0)
            kept[side] = np.concatenate(found, -1)  # [B, queries, H, keys]
        different = int((kept["kernel"] != kept["XLA"]).sum())
        run.found("dropout", places=kept["XLA"].size, different=different, kept=float(kept["kernel"].mean()), rate=rate)
        if different:
            run.failed.append("dropout")

    inputs = random_inputs(rows, length, heads, 64, two_segments(rows, length))
    for side, attention in sides.items():
        with run.trying("bits"):
            function = forward_and_backward(attention, heads, 0.1)
            run.found("bits", side=side, same=(same := same_bits(lambda f=function: f(*inputs))), runs=3)
            if side == "kernel" and not same:
                run.failed.append("bits")

    def many() -> None:
        rows, length = run.sizes.many
        inputs = random_inputs(rows, length, heads, 64, two_segments(rows, length))
        found = forward_and_backward(sides["kernel"], heads, 0.1)(*inputs)
        for place, part in (("first", slice(0, 2)), ("last", slice(rows - 2, rows))):
            few, shares = tuple(x[part] for x in inputs), {}
            exact = in_float32(few, heads, 0.1)
            of_xla = forward_and_backward(xla_attention, heads, 0.1)(*few)
            for side, made in (("kernel", [x[part] for x in found]), ("XLA", of_xla)):
                distances = [far(a, b) for a, b in zip(made, exact)]
                shares[side] = [distance["share"] for distance in distances]
                more = {"values": distances[0], "gradient": distances[1]}
                run.found("many elements", elements=inputs[0].size, rows=place, side=side, **more)
            judge("many elements", shares)

    with run.trying("many elements"):
        many()
    for number, (name, segments) in enumerate(cases.items()):
        compared(name, segments, 0.0, timed=number < 2)


def gradients(run: Run) -> None:
    """The word table's gradient, summed in several ways; once more in a process with the deterministic flag."""
    sum_tables(run, "")
    flag = "--xla_gpu_deterministic_ops=true"
    if run.left <= 4:
        run.found(flag, failed=NO_TIME)
        return
    given = {"out": run.out, "folder": run.folder, "scratch": run.scratch}
    given = {name: str(path) for name, path in given.items()} | {"until": run.until, "rehearse": run.rehearse}
    command = [sys.executable, "-m", "benchmarks.gpu_stages", "gradients", json.dumps(given), flag]
    environment = with_flag(flag) | {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # this process holds most of the memory
    if subprocess.run(command, env=environment, cwd=ROOT).returncode:
        run.failed.append(flag)


def sum_tables(run: Run, flag: str) -> None:
    import jax
    import jax.numpy as jnp

    from roberta_jax.model.embedding import sorted_sum

    (rows, width), number = run.sizes.table, run.sizes.tokens
    chooser = np.random.default_rng(0)
    ids = np.minimum(chooser.zipf(1.3, number), rows - 1).astype(np.int32)  # as words are spread
    ids[chooser.random(number) < 0.12] = mask = rows - 1
    updates = jax.random.normal(jax.random.key(0), (number, width), jnp.float32) + 0.1
    exact = np.zeros((rows, width))
    np.add.at(exact, ids, np.asarray(updates, np.float64))

    def by_gather(dtype):
        def gradient(ids, updates):
            table = jnp.zeros((rows, width), jnp.float32)
            gather = lambda table: jnp.take(table.astype(dtype), ids, axis=0)  # noqa: E731
            return jax.vjp(gather, table)[1](updates.astype(dtype))[0]

        return gradient

    def by_segments(ids, updates):
        ids, order = jax.lax.sort((ids, jnp.arange(len(ids), dtype=jnp.int32)), num_keys=1)
        return jax.ops.segment_sum(updates[order], ids, rows, indices_are_sorted=True)

    ways = {
        "bfloat16 scatter": by_gather(jnp.bfloat16),
        "float32 scatter": by_gather(jnp.float32),
        "sorted segments": by_segments,
        "this package's": partial(sorted_sum, rows=rows),
    }
    here, masks = jax.device_put(ids), int((ids == mask).sum())
    for name, way in ways.items():
        with run.trying(name):
            compiled = partial(jax.jit(way), here, updates)
            found = np.asarray(compiled())
            distances = {"all": far(found, exact)["share"], "mask": far(found[mask], exact[mask])["share"]}
            ms, same = 1e3 * seconds_of(compiled, 0.3), same_bits(compiled)
            run.found("sum", way=name, flag=flag, ms=ms, masks=masks, distance=distances, same=same)
            if name == "this package's" and not (same and distances["all"] < 1e-5 and distances["mask"] < 1e-5):
                run.failed.append(name)


def step(run: Run) -> None:
    """Our training step, each case in a process of its own; the first ones are what later stages want."""
    base = run.sizes.step
    large = [replace(base, shape=run.sizes.large)] if run.sizes.large else []
    cases = [base, run.sizes.pretrained, *large, *(replace(case, dropout=0.0) for case in large)]
    cases += [replace(case, attention="xla") for case in (base, *large)]
    for case in cases:
        (found,) = measure([case], [OURS], rounds=3, steps=run.sizes.steps, end=run.until, limit=False)
        run.case(case, found["sides"][OURS])


def pytorch(run: Run) -> None:
    if importlib.util.find_spec("torch") is None:
        run.found("none", failed="no torch is installed here")
        return
    for side in ("PyTorch SDPA", "PyTorch compile"):
        (found,) = measure([run.sizes.step], [side], rounds=3, steps=run.sizes.steps, end=run.until, limit=False)
        run.case(run.sizes.step, found["sides"][side], side=side)


def main_command(run: Run, workdir: Path, *more: str) -> list[str]:
    """`roberta_jax.main` on the corpus that has travelled."""
    manifest = json.loads((run.corpus / "manifest.json").read_text())
    given = {"data.source": run.corpus, "data.tokenizer": run.corpus / "tokenizer", "data.length": manifest["length"]}
    given |= {"model.vocab_size": manifest["vocabulary"], "model.max_length": manifest["length"]}
    fields = [f"--config.{name}={value}" for name, value in given.items()]
    command = [sys.executable, "-m", "roberta_jax.main", f"--config={ROOT / 'configs' / 'base.py'}", f"--workdir={workdir}"]
    return [*command, *fields, *more]


def pretraining(run: Run) -> None:
    """As many steps as there is time for; killed at 60% and started again."""
    from roberta_jax.training.workdir import read_metrics
    from roberta_jax.verify_resume import last_logged

    case, earlier = run.sizes.pretrained, run.earlier("step", "case")
    ours = next((one for one in earlier if one["case"] == asdict(case) and one.get("seconds")), None)
    # Where the step was not measured: a quarter of an H100's peak, and a slow start.
    second, start = (statistics.median(ours["seconds"]), 15 + ours["prepared"]) if ours else (0.08, 45.0)
    # Two starts, evaluations and saves; a tenth of the steps are made twice, and there must be some time to spare.
    room = max(run.left - 2 * start - 30, 0.3 * run.left)
    steps = 20 if run.rehearse else max(50, min(20_000, int(0.85 * room / second)))
    fields = {
        "steps": steps,
        "batch_size": case.rows,
        "microbatch_size": case.microbatch,
        "log_every": max(1, steps // 60),
        "eval_every": max(1, steps // 5),
        "checkpoint_every": max(1, steps // 4),
        "optimizer.warmup_steps": max(1, steps // 12),
        "optimizer.learning_rate": 5e-4,
    }
    command = main_command(run, run.workdir, *run.sizes.fields, *(f"--config.{name}={value}" for name, value in fields.items()))
    shown = " ".join(command[1:]).replace(str(run.folder), ".gpu").replace(str(run.scratch), "/tmp").replace(f"{ROOT}/", "")
    run.found("begun", steps=steps, command=f"python {shown}", bare_step=second if ours else None)
    run.workdir.mkdir(parents=True)
    output, ledger = run.workdir / "output.txt", run.workdir / "ledger.json"

    def begin() -> subprocess.Popen:
        with open(output, "a") as file:
            return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT)

    def wait(process: subprocess.Popen, reached: int | None = None) -> bool:
        """Whether it has logged that step, or, without one, ended by itself; asked to save and end where time runs out."""
        while process.poll() is None:
            if reached is not None and last_logged(run.workdir) >= reached:
                return True
            if run.left < 6:
                process.send_signal(signal.SIGTERM)
                try:
                    process.wait(8)
                except subprocess.TimeoutExpired:
                    process.kill()
                return False
            time.sleep(0.1)
        return reached is None

    began = time.monotonic()
    process = begin()
    killed = {}
    if wait(process, int(0.6 * steps)):
        process.send_signal(signal.SIGKILL)
        process.wait()
        killed = {"after_step": last_logged(run.workdir), "seconds": time.monotonic() - began}
        run.found("killed", **killed)
        resumed = time.monotonic()
        process = begin()
        if wait(process, killed["after_step"] + 1):
            seconds, repeated = time.monotonic() - resumed, json.loads(ledger.read_text())["seconds"]["lost"]
            run.found("resumed", seconds=seconds - repeated, repeated=repeated)
            wait(process)
    metrics, incidents = read_metrics(run.workdir), run.workdir / "incidents.jsonl"
    said = output.read_text().splitlines()
    run.found(
        "ended",
        exit=process.poll(),
        seconds=time.monotonic() - began,
        steps=steps,
        reached=metrics[-1]["step"] if metrics else 0,
        rows=case.rows,
        length=json.loads((run.corpus / "manifest.json").read_text())["length"],
        ledger=json.loads(ledger.read_text())["seconds"] if ledger.exists() else {},
        curve=[{name: line[name] for name in line if name.split("/")[-1] in CURVE} for line in metrics],
        said=said[-16:],
        incidents=incidents.read_text().splitlines()[:5] if incidents.exists() else [],
    )
    if process.poll() or not killed:
        run.failed.append("pretraining")


CURVE = ("step", "loss", "accuracy", "perplexity", "tokens_per_second", "mfu", "goodput")


def bits(run: Run) -> None:
    """Ten steps: undisturbed, again in a process with a cache of its own, killed and resumed; then with the flag."""
    from roberta_jax.verify_resume import differences, last_logged

    steps = 10
    fields = {"steps": steps, "log_every": 1, "eval_every": steps, "checkpoint_every": 2, "optimizer.warmup_steps": 3}
    given = [*run.sizes.bits, *(f"--config.{name}={value}" for name, value in fields.items())]

    def begin(name: str, flag: str) -> subprocess.Popen:
        """What it shares with no other: the compiled programs."""
        workdir = run.scratch / name
        workdir.mkdir(parents=True, exist_ok=True)
        changed = {"XDG_CACHE_HOME": str(workdir / "cache")}
        changed |= {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.9 / run.sizes.at_once:.2f}"}
        with open(workdir / "output.txt", "a") as file:
            command = main_command(run, workdir / "run", *given)
            return subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, cwd=ROOT, env=with_flag(flag) | changed)

    flags = {flag: flag.removeprefix("--") or "as it is" for flag in run.sizes.flags}
    wanted = [(flag, kind) for flag in flags for kind in ("undisturbed", "again", "killed")]
    going: dict[tuple, subprocess.Popen] = {}
    ended: dict[tuple, int] = {}
    resumed: set[tuple] = set()
    name = lambda of: f"bits-{list(flags).index(of[0])}-{of[1]}"  # noqa: E731
    while (wanted or going) and run.left > 0:
        while wanted and len(going) < run.sizes.at_once:
            going[wanted[0]] = begin(name(wanted[0]), wanted[0][0])
            wanted.pop(0)
        for of, process in list(going.items()):
            if of[1] == "killed" and of not in resumed and last_logged(run.scratch / name(of) / "run") >= 4:
                process.kill()
                process.wait()
                resumed.add(of)
                going[of] = begin(name(of), of[0])
            elif process.poll() is not None:
                ended[of] = process.returncode
                del going[of]
        time.sleep(0.005)
    for process in going.values():
        process.kill()
    for flag, said in flags.items():
        with run.trying("compared"):
            codes = {kind: ended.get((flag, kind)) for kind in ("undisturbed", "again", "killed")}
            for kind in ("again", "killed"):
                if bad := [each for each in ("undisturbed", kind) if codes[each] != 0]:
                    code, output = codes[bad[0]], run.scratch / name((flag, bad[0])) / "output.txt"
                    last = " ".join(output.read_text().splitlines()[-1:]) if output.exists() else ""
                    why = f"{bad[0]}: " + ("not ended in time" if code is None else f"exit status {code}: {last[:200]}")
                    run.found("compared", flag=flag, said=said, run=kind, failed=why)
                    run.failed.append(kind)
                    continue
                one, other = (run.scratch / name((flag, of)) / "run" for of in ("undisturbed", kind))
                found = differences(one, other, steps)
                run.found(
                    "compared", flag=flag, said=said, run=kind, different=len(found), first=found[:3],
                    resumed=(flag, kind) in resumed,
                )  # fmt: skip
                if found and flag:  # without it a GPU's sums come in any order
                    run.failed.append(kind)


def texts(run: Run) -> list[str]:
    """Sentences of the minimal pairs, else of the corpus."""
    lines = [line for path in sorted((run.folder / "blimp").glob("*.jsonl")) for line in path.read_text().splitlines()]
    found = [json.loads(line)["sentence_good"] for line in lines]
    if not found:
        from roberta_jax.data.corpus import Corpus

        corpus = Corpus(run.corpus)
        rows = corpus.valid.gather(np.arange(min(len(corpus.valid), run.sizes.texts)))
        found = [corpus.tokenizer.decode(row) for row in rows]
    order = np.random.default_rng(0).permutation(len(found))
    return [found[i] for i in order[: run.sizes.texts]]


def inference(run: Run) -> None:
    """Sentences a second to vectors: the model that was pretrained, or a random one of its shape."""
    import jax

    from benchmarks.sides import roberta_config
    from roberta_jax import inference
    from roberta_jax.interop import hub
    from roberta_jax.model.heads import init_masked_lm
    from roberta_jax.tokenization.pretrained import load_tokenizer

    dtype = "float32" if jax.default_backend() == "cpu" else "bfloat16"
    if (run.workdir / "checkpoints").is_dir() and run.earlier("pretraining", "ended"):
        model, of = inference.load(run.workdir, dtype=dtype), "pretrained here"
    else:
        text = load_tokenizer(run.corpus / "tokenizer")
        config = roberta_config(replace(run.sizes.pretrained, vocab_size=len(text)))
        params = jax.tree.map(np.asarray, jax.jit(lambda: init_masked_lm(jax.random.key(0), config))())
        model, of = inference.Model(hub.Pretrained(config, params, text, "lm_head"), dtype=dtype), "random weights"
    sentences = texts(run)
    seconds = seconds_of(lambda: model.embed(sentences), 0.0 if run.rehearse else 2.0)
    ids = sum(len(row) for row in model._rows(sentences))
    run.found("embed", texts=len(sentences), ids=ids, texts_per_second=len(sentences) / seconds, model=of, dtype=dtype)


def grammar(run: Run) -> None:
    """The pretrained model's minimal pairs, as far as there is time."""
    pairs = run.folder / "blimp"
    if not pairs.is_dir() or not run.earlier("pretraining", "ended"):
        run.found("none", failed="there is no pretrained model" if pairs.is_dir() else "no pairs have travelled")
        return
    command = [sys.executable, "-m", "roberta_jax.minimal_pairs", f"--model={run.workdir}", f"--source={pairs}", "--json"]
    command += ["--pairs=5"] * run.rehearse
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=max(1.0, run.left))
    if done.returncode:
        raise RuntimeError(f"exit status {done.returncode}: the log has its words")
    run.found("pairs", scores=json.loads(done.stdout.strip().splitlines()[-1]))


STAGES = {one.__name__: one for one in (environment, kernel, gradients, step, pytorch, pretraining, bits, inference, grammar)}


def main() -> None:
    name, given, *flags = sys.argv[1:]
    given = json.loads(given)
    paths = {key: Path(given[key]) for key in ("out", "folder", "scratch")}
    run = Run(name, **paths, until=given["until"], rehearse=given["rehearse"])
    if flags:
        sum_tables(run, flags[0])
    else:
        with run.trying("stage"):
            STAGES[name](run)
    if run.failed:
        sys.exit(f"{name} failed: {', '.join(dict.fromkeys(run.failed))}")


if __name__ == "__main__":
    main()
