"""README, docs and docstrings name what there is: every command, flag, field, file, test, commit, link and snippet."""

import ast
import dataclasses
import functools
import inspect
import os
import re
import shlex
import subprocess
import tomllib
from pathlib import Path, PurePosixPath

import command_lines
import jax
import pytest
from packaging.requirements import Requirement
from test_layering import COMMANDS, LAYERS

from roberta_jax import inference
from roberta_jax.__main__ import COMMANDS as WORDS
from roberta_jax.ablations.config import AblationsConfig
from roberta_jax.config import defaults
from roberta_jax.interop import hub
from roberta_jax.model.config import FIXED, OF_A_RUN, RobertaConfig
from roberta_jax.model.heads import init_masked_lm
from roberta_jax.pretraining.config import PretrainConfig
from roberta_jax.tasks.config import FinetuneConfig
from roberta_jax.tokenization.pretrained import LosslessTokenizer
from roberta_jax.tokenization.tokenizer import ByteLevelBPE

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKED = [*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "reports").glob("**/*.md"))]
SOURCES = [path for folder in ("roberta_jax", "benchmarks", "configs") for path in sorted((ROOT / folder).rglob("*.py"))]
MOVED = {"roberta_jax.data.prepare", "roberta_jax.data.inspect", "roberta_jax.data.beam", "roberta_jax.interop.hub"}
PROGRAMS = {"python", "pip", "./launch_tpu.sh", "srun", "ruff", "git", "roberta-jax"}


def named(paths):
    return pytest.mark.parametrize("path", paths, ids=lambda path: str(path.relative_to(ROOT)))


@functools.cache
def blocks(path: Path) -> list[tuple[str, str]]:
    """(language, text) of a page's blocks of code, fenced or indented."""
    text = path.read_text()
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    rest = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    indented = re.findall(r"(?:^(?: {4}|\t).*\n?)+", rest, re.M)
    return fenced + [("", inspect.cleandoc(block)) for block in indented if not re.match(r"\s+[-*]", block)]


@functools.cache
def prose(path: Path) -> str:
    """A page without its blocks."""
    return re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.M | re.S)


def command_words(line: str) -> list[list[str]]:
    """The commands of a shell's line, without comments and variables in front."""
    found = [[]]
    for word in shlex.split(line, comments=True):
        if word in ("&&", "|", ";"):
            found.append([])
        elif found[-1] or not re.fullmatch(r"[A-Z_]+=.*", word):
            found[-1].append(word)
    return [words for words in found if words]


def commands(path: Path) -> list[str]:
    """Every line of a shell that a page shows, in blocks and within its prose."""
    lines = []
    for language, text in blocks(path):
        text = re.sub(r" *\\\n\s*", " ", text)
        shell = language == "sh" or not language and re.match(r"\s*(python|pip|\./launch)", text)
        lines += [line for line in text.splitlines() if shell and line.strip() and not line.startswith("#")]
    spans = re.findall(r"`([^`\n]+)`", re.sub(r"\s*\n\s*", " ", prose(path)))
    return lines + [span for span in spans if re.match(r"(python -m|pip install|roberta-jax|\./launch_tpu.sh) ?\S", span)]


ALL = [(path, line) for path in PAGES for line in commands(path)]


def check_python(words: list[str]) -> None:
    assert words[0] == "-m", "only modules are run"
    module, arguments = words[1], [word for word in words[2:] if word != "…"]
    if module in ("pytest", "venv"):
        for name in arguments:
            assert not name.startswith("tests/") or (ROOT / name).exists(), f"{name} is not there"
        return
    check_module(module)
    if words[2:] == [] or "…" in words:
        return
    found = command_lines.parse(module, arguments)
    assert "error" not in found, found["error"]
    if "--beam" in arguments:
        check_beam(found["rest"])
    else:
        assert all(name.startswith("--config.") for name in found["rest"]), f"flags that are not known: {found['rest']}"


def check_module(module: str) -> None:
    """A command, by the name that it has now."""
    path = ROOT / f"{module.replace('.', '/')}.py"
    if module == "roberta_jax":  # whose words are checked where it is called by its own name
        return
    assert path.is_file(), f"there is no {path.relative_to(ROOT)}"
    assert "__main__" in path.read_text(), f"{module} is no command"
    assert module not in MOVED, f"{module} has moved"
    assert module.split(".")[0] != "roberta_jax" or module.removeprefix("roberta_jax.") in COMMANDS, f"{module} is no command"


def check_beam(flags: list[str]) -> None:
    options = pytest.importorskip("apache_beam.options.pipeline_options").PipelineOptions(flags)
    unknown = options.get_all_options(retain_unknown_options=True).keys() - options.get_all_options().keys()
    assert not unknown, f"neither prepare nor Beam knows {unknown}"


def check_pip(words: list[str]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert words[0] == "install"
    for word in words[1:]:
        if word == "-r" or word == "-e":
            continue
        if word.endswith(".txt"):
            assert (ROOT / word).is_file(), f"{word} is not there"
            continue
        requirement = Requirement(re.sub(r"^(/\w+|\.)(?=\[|$)", "roberta_jax", word))
        if requirement.name == "roberta_jax":
            assert requirement.extras <= project["optional-dependencies"].keys(), f"{word}: no such extra"


@pytest.fixture(scope="module")
def cloud(tmp_path_factory):
    """A gcloud that does nothing: a dry run asks it for the project alone."""
    folder = tmp_path_factory.mktemp("cloud")
    (folder / "gcloud").write_text("#!/bin/sh\necho project\n")
    (folder / "gcloud").chmod(0o755)
    return os.environ | {"PATH": f"{folder}:{os.environ['PATH']}"}


def check_launcher(words: list[str], cloud: dict) -> None:
    before, behind = (words, []) if "--" not in words else (words[: words.index("--")], words[words.index("--") :])
    command = ["bash", "launch_tpu.sh", *before, *([] if "--help" in words else ["--dry_run"]), *behind]
    done = subprocess.run(command, cwd=ROOT, env=cloud, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    config = [word for word in before if word.startswith("--config=")]
    if config:  # what follows `--` goes to main
        found = command_lines.parse("roberta_jax.main", [*config, "--workdir=RUN", *behind[1:]])
        assert found == {"rest": []}, found


def check(line: str, cloud: dict) -> None:
    for words in command_words(line):
        program, *arguments = words
        assert program in PROGRAMS, f"nobody looks at {program}"
        if program == "srun":
            program, *arguments = arguments
        if program == "roberta-jax":
            assert arguments[0] in WORDS, f"roberta-jax has no {arguments[0]}"
            program, arguments = "python", ["-m", f"roberta_jax.{WORDS[arguments[0]][0]}", *arguments[1:]]
        if program == "python":
            check_python(arguments)
        elif program == "pip":
            check_pip(arguments)
        elif program == "./launch_tpu.sh":
            check_launcher(arguments, cloud)


@pytest.mark.parametrize(("path", "line"), ALL, ids=lambda value: value if isinstance(value, str) else value.name)
def test_a_command_is_one_that_there_is(path, line, cloud):
    check(line, cloud)


WRONG = [
    "python -m roberta_jax.train --workdir=RUN",
    "python -m roberta_jax.data.prepare --source text/ --tokenizer 50265 --out corpus",
    "python -m roberta_jax.model.encoder",
    "python -m roberta_jax.export --model=RUN --output=DIR",
    "python -m roberta_jax.export --model=RUN",
    "python -m roberta_jax.prepare --source text/ --tokenizer 50265 --out corpus --format sentences",
    "python -m roberta_jax.prepare --source text/ --tokenizer 50265 --out corpus --runner=FlinkRunner",
    "python -m roberta_jax.prepare --source text/ --tokenizer 50265 --out corpus --beam --max_workers=5",
    "python -m roberta_jax.main --config=configs/small_one.py --workdir=RUN",
    "python -m roberta_jax.main --config=configs/base.py --workdir=RUN --config.learning_rate=1",
    "python -m roberta_jax.main --config=configs/base.py --workdir=RUN --config.data.masking=words",
    "python -m roberta_jax.main --config=configs/base.py --workdir=RUN --resume",
    "python -m roberta_jax.inspect --config=configs/base.py --row=8",
    "python -m roberta_jax.plan --config=configs/large.py",
    "python -m benchmarks.train_step --size base",
    "python -m pytest tests/test_nothing.py",
    "pip install -e '.[gpu]'",
    "pip install -r requirement.txt",
    "./launch_tpu.sh run --name=roberta --zone=z --types=v5litepod-256 --config=configs/large.py --workdir=gs://bucket/run",
    "roberta-jax pretrain --config=tiny --workdir=RUN",
    "roberta-jax train --config=smal --workdir=RUN",
    "make test",
]


@pytest.mark.parametrize("line", WRONG)
def test_a_command_that_there_is_not_is_found(line, cloud):
    with pytest.raises(AssertionError):
        check(line, cloud)


def test_the_first_commands_are_looked_at():
    """Those of set-up, of the first run and of the tests, so that no change of a page's form hides them."""
    lines = commands(ROOT / "README.md")
    for expected in (
        "pip install -r requirements.txt",
        "python -m roberta_jax.main --config=configs/tiny.py --workdir=/tmp/run",
        "python -m pytest -n 2",
    ):
        assert expected in lines
    assert len(ALL) > 40


@named([*LINKED, *SOURCES])
def test_a_module_that_is_run_is_a_command(path):
    """In reports too, and in docstrings, comments and messages."""
    if path.name == "CHANGELOG.md":
        return  # it tells what the old names are called now
    for name in set(re.findall(r"python -m ((?:roberta_jax|benchmarks)(?:\.\w+)*)", path.read_text())) - MOVED_BY[path]:
        check_module(name)


MOVED_BY = {path: set() for path in [*LINKED, *SOURCES]}
MOVED_BY |= {ROOT / f"{name.replace('.', '/')}.py": {name} for name in MOVED}  # which say where it is now


@named(SOURCES)
def test_a_docstrings_command_is_one_that_there_is(path, cloud):
    """`python -m … --flag` in a module's docstring. Where it has parts in brackets, the command's help knows each flag."""
    docstring = re.sub(r" *\\\n\s*", " ", ast.get_docstring(ast.parse(path.read_text())) or "")
    for line in re.findall(r"python -m (?:roberta_jax|benchmarks)\.\w+ [^\n`]*--[^\n`]*", docstring):
        if "[" not in line:
            check(line.rstrip(".").removesuffix(")"), cloud)
            continue
        module, flags = line.split()[2], set(re.findall(r"(?<![\w-])--(\w+)(?![\w.])", line))
        known = re.findall(r"--(?:\[no\])?(\w+)", command_lines.parse(module, ["--help"])["error"])
        assert flags <= set(known), f"{module}: {flags - set(known)}"


# Python

SNIPPETS = [(path, text) for path in PAGES for language, text in blocks(path) if language == "python"]


@pytest.mark.parametrize(("path", "text"), SNIPPETS, ids=lambda value: value.name if isinstance(value, Path) else "")
def test_python_calls_what_there_is(path, text):
    """It compiles, imports what is there, and calls a model's methods as they are declared."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom):
            module = __import__(node.module, fromlist=["_"])
            assert all(hasattr(module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and ast.unparse(node.func.value) == "model":
            method = getattr(inference.Model, node.func.attr)
            inspect.signature(method).bind(None, *node.args, **{keyword.arg: keyword.value for keyword in node.keywords})


@pytest.fixture(scope="module")
def small_model(documents, tmp_path_factory) -> Path:
    tokenizer = ByteLevelBPE.train(documents, 400)
    config = RobertaConfig(len(tokenizer), 1, 32, 64, 2, max_length=64)
    params = jax.device_get(init_masked_lm(jax.random.key(0), config))
    folder = tmp_path_factory.mktemp("model")
    hub.save(hub.Pretrained(config, params, LosslessTokenizer(tokenizer), "lm_head", origin="random weights"), folder)
    return folder


@pytest.mark.parametrize("page", ["README.md", "docs/models.md", "docs/data.md"])
def test_python_that_is_cheap_runs(page, small_model, monkeypatch):
    """Each snippet, with a small model in the place of RUN and /tmp/run; the last line gives something."""
    (small_model / "tokenizer").mkdir(exist_ok=True)
    for name in ("vocab.json", "merges.txt"):
        (small_model / "tokenizer" / name).write_bytes((small_model / name).read_bytes())
    (text,) = (text for path, text in SNIPPETS if path == ROOT / page)
    body = ast.parse(re.sub(r'"(?:RUN|/tmp/run)(?=["/])', f'"{small_model}', text)).body
    names = {}
    exec(compile(ast.Module(body[:-1], []), page, "exec"), names)
    assert len(eval(compile(ast.Expression(body[-1].value), page, "eval"), names))


# Files, links, tests, commits


def slug(heading: str) -> str:
    """GitHub's anchor of a heading."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
    return re.sub(r"[^\w\- ]", "", text.strip().lower()).replace(" ", "-")


@functools.cache
def anchors(path: Path) -> set[str]:
    return {slug(heading) for heading in re.findall(r"^#+ (.+)$", prose(path), re.M)}


@named(LINKED)
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(path)):
        if target.startswith("http"):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists(), f"{target}: {there} is not there"
        assert there.is_relative_to(ROOT)
        assert not anchor or anchor in anchors(there), f"{target}: {sorted(anchors(there))}"


JOBS = {
    "Pretraining": (PretrainConfig, [f"model.{name}" for name in FIXED]),
    "Fine-tuning": (FinetuneConfig, ["model", "optimizer", "guard"]),
    "Comparisons": (AblationsConfig, [each.name for each in dataclasses.fields(PretrainConfig)]),
}


def fields_page() -> str:
    lines = [
        "# The fields of a config",
        "",
        "Set by `--config.FIELD=VALUE`. Each is declared once, in a `config.py` of the package with its default and the words",
        "below; a file in [configs/](../configs) sets what it has otherwise. Written by `python tests/test_docs.py`.",
    ]
    for job, (cls, leave_out) in JOBS.items():
        lines += ["", f"## {job}", "", "| field | default | |", "|---|---|---|"]
        lines += [
            f"| `{name}` | {f'`{value}`' if value != '' else ''} | {said} |" for name, value, said in rows(cls, leave_out)
        ]
        if job == "Fine-tuning":
            lines += ["", "`optimizer` as in pretraining, and of the model:", ", ".join(f"`model.{name}`" for name in OF_A_RUN)]
    return "\n".join(lines) + "\n"


def rows(cls: type, leave_out: list[str], prefix: str = ""):
    for each in dataclasses.fields(cls):
        name = f"{prefix}{each.name}"
        if name in leave_out or name == "job":
            continue
        if dataclasses.is_dataclass(each.type):
            yield from rows(each.type, leave_out, f"{name}.")
            continue
        value = "~/.cache/roberta_jax" if name == "data.cache" else defaults(cls)[each.name]
        choices = each.metadata["choices"]
        said = each.metadata["help"] + (f" ({', '.join(f'`{choice}`' for choice in choices)})" if choices else "")
        yield name, value, said.replace("|", "\\|").replace("<mask>", "`<mask>`")


def test_every_field_stands_in_the_docs():
    assert (ROOT / "docs" / "fields.md").read_text() == fields_page()


@named([*PAGES, ROOT / "CHANGELOG.md"])
def test_files_and_tests_that_are_named_are_there(path):
    text = path.read_text()
    for name in re.findall(r"(?<![\w/.$@-])((?:roberta_jax|configs|tests|reports|benchmarks|docs)/[\w./-]*\w)", text):
        if name not in ("reports/performance-DATE.md", "reports/gpu-DATE.md"):
            assert (ROOT / name).exists(), f"{name} is not there"
    for file, name in re.findall(r"(tests/[\w/]+\.py)::(\w+)", text):
        assert f"def {name}(" in (ROOT / file).read_text(), f"{file} has no {name}"


def test_the_designs_table_of_what_to_add_is_true():
    """Its files are there, and one of them has the example, or is it."""
    table = (ROOT / "docs" / "design.md").read_text().split("## How to add something")[1].split("##")[0]
    rows = [row.strip("| ").split(" | ") for row in re.findall(r"^\| an? .*", table, re.M)]
    assert len(rows) == 9
    for _, number, where, example in rows:
        files = re.findall(r"`([\w/]+\.py)`", f"{where} {example}")
        there = [ROOT / "roberta_jax" / name for name in files if (ROOT / "roberta_jax" / name).exists()]
        assert all((ROOT / "roberta_jax" / name).exists() for name in files), files
        assert len(set(files)) <= int(number.split()[0])
        (shown,) = re.findall(r"`([^`]+)`", example)
        assert shown in files or any(shown in path.read_text() for path in there), shown


@named([*PAGES, ROOT / "CHANGELOG.md", *sorted((ROOT / "reports").glob("**/*.md"))])
def test_commits_that_are_named_are_there(path):
    git = functools.partial(subprocess.run, cwd=ROOT, capture_output=True, text=True)
    if git(["git", "rev-parse", "--is-shallow-repository"]).stdout.strip() != "false":
        pytest.skip("no whole repository")
    for commit in re.findall(r"(?<![\w/#-])(?=[0-9a-f]*[a-f])(?=[0-9a-f]*[0-9])[0-9a-f]{7,40}(?![\w-])", prose(path)):
        assert git(["git", "cat-file", "-e", f"{commit}^{{commit}}"]).returncode == 0, commit


def test_every_page_is_linked_from_the_first_ones():
    for page in (ROOT / "docs").glob("*.md"):
        if page.name != "README.md":
            assert f"(docs/{page.name})" in (ROOT / "README.md").read_text()
            assert f"({page.name})" in (ROOT / "docs" / "README.md").read_text()


def test_the_design_has_the_layers_that_are_held():
    rows = re.findall(r"^\| ((?:`\w+` ?)+) \|", (ROOT / "docs" / "design.md").read_text().split("## Layers")[1], re.M)
    found = [set(re.findall(r"`(\w+)`", row)) for row in rows]
    assert found == [COMMANDS, *reversed(LAYERS)]


def test_the_readme_is_read_in_five_minutes():
    """At some 220 words a minute."""
    assert len((ROOT / "README.md").read_text().split()) <= 1_200


def test_the_readme_maps_every_folder_and_command():
    text = (ROOT / "README.md").read_text()
    tracked = {PurePosixPath(path.relative_to(ROOT).as_posix()) for path in ROOT.glob("roberta_jax/*/__init__.py")}
    assert all(f"[{path.parent}/]" in text for path in tracked)
    assert all(f"`{name}`" in text for name in COMMANDS)


@named([*PAGES, ROOT / "CHANGELOG.md"])
def test_no_page_knows_the_machine_that_it_was_written_on(path):
    assert not re.search(r"/(work|root|home)/", path.read_text())


@named([*PAGES, ROOT / "CHANGELOG.md"])
def test_no_line_but_a_tables_is_longer_than_128_characters(path):
    assert all(len(line) <= 128 for line in path.read_text().splitlines() if not line.startswith("|"))


if __name__ == "__main__":
    (ROOT / "docs" / "fields.md").write_text(fields_page())
