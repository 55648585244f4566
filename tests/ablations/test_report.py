"""The report of made-up runs: its figures worked out by hand, its pictures, and the page as a browser shows it."""

import math
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from roberta_jax.ablations import pictures, report, tables
from roberta_jax.ablations.page import COLORS
from roberta_jax.ablations.results import Claim, Run, Study, Variant
from roberta_jax.errors import UserError
from tests.browser import picture

MASKING = Study(
    "masking",
    "Masking <script>alert(1)</script> & others",
    "Does it | matter?",
    "dynamic",
    (
        Variant("dynamic", "drawn anew", {"data.masking": "roberta"}, {"sst2": 92.9, "squad2_f1": 78.7}),
        Variant("static", "ten patterns <b>", {"data.masking": "static"}, {"sst2": 92.5, "squad2_f1": 78.3}),
        Variant("hf", "each token by itself", {"data.masking": "hf"}, {"sst2": 93.0}),
        Variant("spans", "whole spans", {"data.masking": "spans"}, {"sst2": 92.9}),
    ),
    "All on the same rows.",
    (
        Claim("drawn anew | as good", "dynamic", "static", or_as_good=True),
        Claim("each by itself is better", "hf", "dynamic"),
        Claim("of one that did not run", "hf", "none"),
    ),
)
ENCODING = Study(
    "encoding",
    "Encoding",
    "Are bytes enough?",
    "bytes",
    (Variant("bytes", "BPE", {"data.encoding": "bytes"}), Variant("characters", "chars", {"data.encoding": "characters"})),
)
EMPTY = Study("data", "Data", "How much?", "1x", (Variant("1x", "all", {}),))
TWO = (("dynamic", 0.0), ("static", 0.1))
COMMAND = "python -m roberta_jax.main --config=x --workdir=<RUN>"


def run(study: str, variant: str, seed: int, sst2: float, loss: float, seconds: float = 100.0, **details) -> Run:
    curve = [(1_000_000 * i, loss + 1 / i) for i in range(1, 11)]
    metrics = {"loss": loss, "perplexity": math.exp(loss), "sst2": sst2, "own_loss": loss}
    return Run(study, variant, seed, metrics, curve, seconds, 10_000_000, 1_000, details)


def masking_runs() -> Iterator[Run]:
    for seed in range(3):
        yield run("masking", "dynamic", seed, 75 + seed, 4 + 0.1 * seed)
        # SST-2: −1, −1.1, −1.2, so the interval is −1.1 ± 4.3027 · 0.1 / √3; the loss: 0.01, 0.03, −0.01
        yield run("masking", "static", seed, 74 + 0.9 * seed, 4 + 0.1 * seed + (0.01, 0.03, -0.01)[seed], 150.0)
        yield run("masking", "hf", seed, 73 + 1.1 * seed, 4.2 + 0.11 * seed)
    yield run("masking", "spans", 0, 70, 4)
    diverged = run("masking", "spans", 2, 50, math.nan)
    yield replace(diverged, curve=[(tokens, 7.0 if tokens < 5e6 else math.nan) for tokens, _ in diverged.curve])


def encoding_runs() -> Iterator[Run]:
    words = {"bytes": {"Latin": 1.5, "Han": 3.25}, "characters": {"Latin": 5.0}}
    for name, bytes_a_token, rate in (("bytes", 4.0, 0.0), ("characters", 1.0, 0.00125)):
        more = {"vocabulary": 8192, "unknown_rate": rate, "bytes_per_token": bytes_a_token, "bytes_lost": 2 * rate}
        one = run("encoding", name, 7, 75, 4, tokens_per_word=words[name], **more)
        metrics = {"bits_per_byte": 4 / math.log(2) / bytes_a_token, "own_loss": 4.0}
        yield replace(one, metrics=metrics | ({"loss": 4.0} if name == "bytes" else {}))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report") / "new"
    report.write([MASKING, ENCODING, EMPTY], [*masking_runs(), *encoding_runs()], folder, COMMAND, "2 cores & 1 < 2")
    return folder


def rows(text: str, *starts: str) -> list[list[str]]:
    """Of the Markdown's tables, those that begin with these cells."""
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return [line for line in lines if tuple(line[: len(starts)]) == starts]


def test_means_and_deviations(folder):
    text = (folder / "report.md").read_text()
    header, measured = rows(text, "variant", "what")[0], rows(text, "static")[0]
    cells = dict(zip(header, measured))
    assert cells["seeds"] == "3"
    assert cells["SST-2, %"] == "74.90 ± 0.90"
    assert cells["loss, nats a masked token"] == "4.1100 ± 0.0917"  # of 4.01, 4.13, 4.19
    assert cells["seconds a run"] == "150"
    assert "10,000,000 tokens a run, 1,000 parameters. All on the same rows." in text
    spans = dict(zip(header, rows(text, "spans")[0]))
    assert spans["loss, nats a masked token"] == "4.0000 1 of 2 finite"


def test_differences_intervals_and_verdicts(folder):
    text = (folder / "report.md").read_text()
    metric, variant, *static = rows(text, "SST-2", "static")[0]
    half = 4.302653 * 0.1 / math.sqrt(3)
    assert static[:3] == ["−1.10", f"−{1.1 + half:.2f} to −{1.1 - half:.2f}", "3"]
    assert static[3] == f"{half * (1 + 1.060660 / 4.302653):.2f}" and static[5:] == ["92.5", "−0.4", "agrees"]
    # hf: −2, −1.9, −1.8 against the paper's +0.1
    assert rows(text, "SST-2", "hf")[0][-3:] == ["93", "+0.1", "disagrees"]
    assert rows(text, "SST-2", "spans")[0][-3:] == ["92.9", "0", "can't tell: fewer than 3 seeds"]
    assert rows(text, "loss", "static")[0][2:4] == ["+0.0100", "−0.0397 to +0.0597"]
    assert rows(text, "loss", "static")[0][-1] == "–"
    assert rows(text, "loss", "spans")[0][4] == "1 (1 not finite)"
    assert not rows(text, "perplexity"), "the loss again, and the paper has none"
    assert not rows(text, "loss on its own rows"), "of other rows and masks"
    assert "The paper also has what is not measured here: SQuAD 2.0 F1 dynamic 78.7, static 78.3." in text


def test_claims_are_judged_by_the_loss_and_by_each_test(folder):
    """Of the differences above, the other way round: that of the loss is +0.01 ± 0.05, more than 0.02 either way."""
    text = (folder / "report.md").read_text()
    at = next(i for i, row in enumerate(rows(text)) if row[0] == "drawn anew \\| as good")
    first, second, third, fourth, behind = rows(text)[at : at + 5]
    why = "can't tell: the interval is too wide"
    assert first[1:5] == ["dynamic, static", "loss", "−0.0100", "−0.0597 to +0.0397"] and first[-1] == why
    assert second[:2] == ["SST-2", "+1.10"] and second[-1] == "agrees"  # its first two cells are empty
    assert third[:4] == ["each by itself is better", "hf, dynamic", "loss", "+0.2100"] and third[-1] == "disagrees"
    assert fourth[:2] == ["SST-2", "−1.90"] and fourth[-1] == "disagrees"
    assert behind[0] == "variant", "the table ends here"
    assert "Of the paper's claims 2 were put to the test; by the loss: agrees 0, disagrees 1, can't tell 1." in text


def test_tests_are_counted_and_corrected_within_a_study():
    runs = list(masking_runs())
    found = {(each.variant, each.metric): each for each in report._corrected(report.compare(MASKING, runs))}
    tested = {key: each for key, each in found.items() if not math.isnan(each.corrected)}
    assert {key for key in tested if key[0] != "spans"} == {(v, m) for v in ("static", "hf") for m in ("loss", "sst2")}
    least = min(tested.values(), key=lambda each: each.difference.p)
    assert least.corrected == pytest.approx(least.difference.p * len(tested))
    assert ("spans", "loss") not in tested, "one pair, and one that diverged"


def test_a_diverged_seed_is_not_tested_though_three_others_are_there():
    runs = [run("masking", name, seed, 75 + seed, 4 + bad * seed**2) for seed in range(3) for name, bad in TWO]
    runs += [run("masking", "dynamic", 3, 75, 4), run("masking", "static", 3, 70, math.nan)]
    (loss,) = [each for each in report._corrected(report.compare(MASKING, runs)) if each.metric == "loss"]
    assert loss.difference.has_interval and math.isnan(loss.corrected)


def test_perplexity_is_compared_where_the_paper_has_it_and_not_tested_again():
    published = [replace(v, published={"perplexity": 4.0 - i}) for i, v in enumerate(MASKING.variants)]
    runs = [run("masking", name, seed, 75, 4 + bad * (seed + 1)) for seed in range(3) for name, bad in TWO]
    found = {each.metric: each for each in report._corrected(report.compare(replace(MASKING, variants=tuple(published)), runs))}
    assert found["perplexity"].same_as == "loss" and math.isnan(found["perplexity"].corrected)
    assert found["perplexity"].verdict == ("can't tell", "0 is in the interval")  # exp makes it skew: 5.7, 12.1, 19.1 ± 16.5
    assert found["loss"].corrected == pytest.approx(found["loss"].difference.p)  # SST-2 is the same in all: no test


def test_encodings_are_compared_by_the_byte_and_shown_by_script(folder):
    text = (folder / "report.md").read_text()
    assert rows(text, "bits a byte", "characters")[0][2] == "+4.3281"  # 4 / ln 2 · (1 − 1/4)
    assert not rows(text, "loss", "characters")
    header = rows(text, "variant", "vocabulary")[0]
    assert header[-2:] == ["tokens a word: Latin", "tokens a word: Han"]
    assert rows(text, "characters", "8,192")[0] == ["characters", "8,192", "1.00", "0.125", "0.250", "5.00", "–"]
    curve = pictures.curve([next(encoding_runs())], by_byte=True)
    assert curve.losses[0, -1] == pytest.approx(4.1 / math.log(2) / 4)


def test_the_summary_says_what_is_missing_or_not_finite(folder):
    text = (folder / "report.md").read_text()
    assert "- 1 of 14 runs is not there: masking spans seed 1." in text
    assert "- Data: no runs are there, so the study is left out." in text and "## Data" not in text
    assert "masking spans seed 2 is not finite and in no mean: loss, perplexity, loss on its own rows, the curve." in text
    assert "The paper has 3 of these differences in the same metric; direction: agrees 1, disagrees 1, can't tell 1." in text
    assert "5 differences from a control were tested; the 95% intervals of 3 leave out 0." in text
    assert "3 remain: masking hf (loss, SST-2); masking static (SST-2)." in text


def test_costs_are_those_of_the_same_seeds(folder):
    text = (folder / "report.md").read_text()
    assert rows(text, "masking", "static")[0][2:] == ["150", "1.50", "data.masking=static"]
    assert rows(text, "masking", "spans")[0][2:4] == ["100", "1.00"]
    assert f"    {COMMAND}" in text and "2 cores & 1 \\< 2" in text


def test_seeds_that_the_control_has_not_are_no_part_of_its_multiple():
    runs = [run("masking", "dynamic", 0, 75, 4, 100.0)]
    runs += [run("masking", "static", seed, 75, 4, seconds) for seed, seconds in enumerate((150.0, 999.0))]
    costs = tables.costs([MASKING], {"masking": runs})
    assert [row[1:4] for row in costs.rows] == [["dynamic", "100", "1.00"], ["static", "150 to 999", "1.50"]]


class Page(HTMLParser):
    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.links, self.text = [], [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href", "action")]
        if tag not in ("meta",):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_is_whole_and_escapes_everything(folder):
    text = (folder / "report.html").read_text()
    page = Page(text)
    assert page.open == [] and not {"script", "img", "link", "iframe"} & set(page.tags)
    assert all(link.startswith("#") for link in page.links) and "url(http" not in text and "@import" not in text
    assert MASKING.title in page.text and "ten patterns <b>" in page.text and COMMAND in page.text
    assert page.tags.count("svg") == 2 + 2 + 1  # two curves; loss and SST-2; bits a byte
    assert "bits a byte" in page.text and "tokens seen, millions" in page.text
    body = text[text.index("<body") :]
    assert "var(--c0)" in body and not any(color in body for color in COLORS), "a colour that a dark page would not change"


def test_markdown_keeps_its_columns(folder):
    found = re.findall(r"(?:^\|.*\n)+", (folder / "report.md").read_text(), re.MULTILINE)
    assert len(found) == 7
    for table in found:
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}) == 1
    assert "Does it \\| matter?" in (folder / "report.md").read_text()


def test_pictures_beside_the_markdown(folder):
    text = (folder / "report.md").read_text()
    named = re.findall(r"\]\((.*\.png)\)", text)
    assert sorted(named) == sorted(path.name for path in folder.glob("*.png"))
    assert set(named) == {f"{kind}-{study}.png" for kind in ("curves", "differences") for study in ("masking", "encoding")}
    for name in named:
        assert (folder / name).stat().st_size < 60_000
        assert len(Image.open(folder / name).getcolors()) > 10


def test_curve_is_of_the_seeds_that_stayed_finite():
    made = pictures.curve(list(masking_runs())[:7:3])  # dynamic
    assert made.tokens.tolist() == [1e6 * i for i in range(1, 11)]
    assert made.losses[:, -1].tolist() == pytest.approx([4.1, 4.2, 4.3])
    spans = pictures.curve([each for each in masking_runs() if each.variant == "spans"])
    assert spans.losses.shape == (1, 10)
    (tokens, losses) = spans.diverged[0]
    assert tokens.tolist() == [1e6, 2e6, 3e6, 4e6] and losses.tolist() == [7, 7, 7, 7]
    other = replace(run("s", "v", 1, 0, 0), curve=[(1_500_000, 1.0), (2_500_000, 3.0)])
    mixed = pictures.curve([run("s", "v", 0, 0, 0), other])
    assert mixed.tokens.tolist() == [1.5e6, 2e6, 2.5e6] and mixed.losses[1].tolist() == [1, 2, 3]


def test_one_seed_and_no_runs(tmp_path):
    runs = [each for each in masking_runs() if each.seed == 0 and each.variant in ("dynamic", "static")]
    report.write([MASKING], [replace(each, curve=[]) for each in runs], tmp_path, COMMAND, "")
    text = (tmp_path / "report.md").read_text()
    assert rows(text, "SST-2", "static")[0][2:] == [
        "−1.00",
        "–",
        "1",
        "–",
        "–",
        "92.5",
        "−0.4",
        "can't tell: fewer than 3 seeds",
    ]
    assert "No difference has an interval" in text and not (tmp_path / "curves-masking.png").exists()
    report.write([MASKING], [], tmp_path, COMMAND, "")
    assert "no runs are there" in (tmp_path / "report.md").read_text()


def test_all_runs_diverged(tmp_path):
    runs = [replace(run("masking", "dynamic", 0, math.nan, math.nan), curve=[(1, math.nan)])]
    report.write([MASKING], runs, tmp_path, COMMAND, "")
    assert "not finite" in rows((tmp_path / "report.md").read_text(), "dynamic")[0]


def test_a_run_of_two_studies_takes_its_time_once():
    runs = [run(name, "v", 0, 0, 0, 3600.0, key=key) for name, key in (("a", "k"), ("b", "k"), ("b", "other"))]
    assert report._summary([], {"a": runs[:1], "b": runs[1:]}, [], [])[0] == "2 runs, 2.0 hours in all."


@pytest.mark.parametrize(
    "studies, runs, error",
    [
        ([replace(MASKING, control="none")], [], "study masking: its control 'none' is none of its variants, dynamic, "),
        ([EMPTY], [run("masking", "dynamic", 0, 0, 0)], "study 'masking'.*do not have: they are data"),
        ([EMPTY], [run("data", "2x", 0, 0, 0)], "variant '2x'.*data: 1x"),
        ([EMPTY], [run("data", "1x", 5, 0, 0)] * 2, "study data, variant 1x, seed 5 is there twice"),
    ],
)
def test_errors(tmp_path, studies, runs, error):
    with pytest.raises(UserError, match=error):
        report.write(studies, runs, tmp_path, "", "")


def test_a_browser_shows_it(folder, tmp_path):
    picture(folder / "report.html", tmp_path / "page.png", 1200, 1600)
    pixels = np.asarray(Image.open(tmp_path / "page.png").convert("RGB"))
    assert pixels.shape == (1600, 1200, 3)
    written = (pixels < 128).all(-1)
    assert 0.01 < written.mean() < 0.2  # ink on paper, over the whole width and height
    assert written[:, :600].any() and written[:, 600:].any() and written[1200:].any()
    drawn = {tuple(pixel) for pixel in pixels.reshape(-1, 3)[::3]}
    light = [tuple(int(color[i : i + 2], 16) for i in (1, 3, 5)) for color in COLORS]
    assert set(light[:3]) <= drawn  # the curves of three variants, in the page's colours
