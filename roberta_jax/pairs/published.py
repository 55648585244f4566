"""Published accuracies of masked models, in percent, each with the metric by which its authors had it.

UnMasked's are means over seeds of its results' files, by paradigm; its categories are means of those, s-selection within
argument structure. A row stands beside a figure only where suite and metric are the same.
"""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Published:
    suite: str
    metric: str
    model: str
    source: str
    overall: float | None = None  # the mean over paradigms
    over_categories: float | None = None  # the mean over categories
    categories: dict[str, float] = field(default_factory=dict)
    paradigms: dict[str, float] = field(default_factory=dict)


CATEGORIES = (
    "anaphor agreement",
    "argument structure",
    "binding",
    "control/raising",
    "determiner-noun agreement",
    "ellipsis",
    "filler-gap",
    "irregular forms",
    "island effects",
    "NPI licensing",
    "quantifiers",
    "subject-verb agreement",
)
UNMASKED, NYU = "phueb/UnMasked", "nyu-mll/pretraining-learning-curves, table 2"
KAUF = "carina-kauf/better-mlm-scoring"
CHILDES, NEWSELA, WIKIPEDIA, ALL_THREE = (
    f"BabyBERTa, {corpus}" for corpus in ("AO-CHILDES, 5M words", "AO-Newsela, 5M", "Wikipedia-1, ~5M", "all three, ~15M")
)
NYU_10M, LIU = "RoBERTa-base, nyu-mll, 10M words (mean of 3)", "RoBERTa-base, Liu et al. 2019, 30B words"

# BLiMP by pseudo-log-likelihood: model, source, overall, then the categories.
_BLIMP = f"""
{CHILDES}|{UNMASKED}|61.0|70.8 54.4 62.0 55.2 78.5 50.8 68.1 69.4 52.6 58.5 59.3 55.8
{NEWSELA}|{UNMASKED}|64.0|71.8 61.5 68.6 56.4 84.1 63.6 63.3 76.5 41.2 59.1 61.6 73.5
{WIKIPEDIA}|{UNMASKED}|63.5|67.6 59.3 68.8 60.5 80.8 73.9 61.4 75.1 53.8 53.3 54.8 67.6
{ALL_THREE}|{UNMASKED}|68.0|77.9 62.8 71.1 58.0 88.6 72.8 69.9 79.4 51.4 58.0 59.6 81.7
RoBERTa, 45M parameters, nyu-mll, 1M words (best of 3)|{NYU}|58.7|68.4 60.3 57.5 59.1 61.3 55.1 61.2 77.7 48.5 56.6 67.2 52.9
RoBERTa-base, nyu-mll, 10M words, 1|{NYU}|72.0|88.0 70.3 74.0 70.3 90.0 83.7 66.8 89.6 51.5 71.3 62.9 74.5
RoBERTa-base, nyu-mll, 10M words, 2|{NYU}|72.6|91.1 70.1 71.6 70.7 91.6 86.0 67.3 84.3 53.6 75.6 58.6 77.0
RoBERTa-base, nyu-mll, 10M words, 3|{NYU}|71.4|91.4 71.1 71.4 66.4 90.5 85.3 65.8 91.3 46.8 69.1 62.3 81.1
RoBERTa-base, nyu-mll, 100M words (best of 3)|{NYU}|79.7|97.2 79.1 75.4 79.6 94.5 91.6 78.8 92.7 63.0 77.2 64.7 87.5
{LIU}|{NYU}|85.4|97.3 83.5 77.8 81.9 97.0 91.4 90.1 96.2 80.7 81.0 69.8 91.9
"""

# BabyLM's filtered BLiMP, and its supplement as it filters it, by pseudo-log-likelihood: the mean over categories, these;
# the mean over the supplement's paradigms, these in the order of SUPPLEMENT.
_BABYLM = """
RoBERTa-base, BabyLM, 10M words|69.5|81.5 67.1 67.3 67.9 90.8 76.4 63.5 87.4 39.9 55.9 70.5 65.4|47.5|49.4 31.3 32.1 71.7 53.2
RoBERTa-base, BabyLM, 100M words|75.1|89.5 71.3 71.0 67.1 93.1 83.8 68.0 89.6 54.5 66.3 70.3 76.2|42.4|50.8 34.4 34.5 45.6 46.8
"""
SUPPLEMENT = ("hypernym", "qa_congruence_easy", "qa_congruence_tricky", "subject_aux_inversion", "turn_taking")

# Zorro by paradigm, from UnMasked, holistic and pseudo-log-likelihood of each of these.
_ZORRO_MODELS = (CHILDES, ALL_THREE, NYU_10M, LIU)
_ZORRO = """
agreement_determiner_noun-across_1_adjective 89.3 89.5 94.1 97.4 72.8 84.8 92.7 97.7
agreement_determiner_noun-between_neighbors 88.5 90.9 95.3 99.4 75.0 91.2 85.0 95.0
agreement_subject_verb-across_prepositional_phrase 67.7 66.6 96.1 98.2 55.1 92.2 73.4 88.3
agreement_subject_verb-across_relative_clause 64.5 61.1 92.9 95.8 54.0 93.3 89.2 96.1
agreement_subject_verb-in_question_with_aux 86.8 88.3 87.4 92.9 59.6 64.0 80.3 99.5
agreement_subject_verb-in_simple_question 90.4 89.8 94.3 95.9 59.3 76.2 95.3 99.5
anaphor_agreement-pronoun_gender 51.0 49.6 65.0 75.1 72.7 96.9 91.0 99.3
argument_structure-dropped_argument 81.8 78.7 68.1 83.1 47.0 24.8 53.1 71.0
argument_structure-swapped_arguments 93.8 92.0 91.6 92.8 78.1 81.9 63.1 90.6
argument_structure-transitive 63.1 59.8 64.8 61.9 54.8 55.2 64.3 64.2
binding-principle_a 81.3 83.7 94.7 99.2 90.9 98.5 93.8 98.0
case-subjective_pronoun 94.9 91.4 96.5 99.0 90.3 95.0 75.2 95.4
ellipsis-n_bar 51.1 53.1 61.7 69.6 74.9 68.3 82.3 84.6
filler-gap-wh_question_object 97.3 96.5 93.7 93.5 66.7 90.2 83.0 87.5
filler-gap-wh_question_subject 80.9 75.7 79.1 86.2 75.3 74.3 93.7 93.8
irregular-verb 68.5 70.9 93.0 98.4 84.5 95.0 99.9 99.6
island-effects-adjunct_island 56.1 60.7 38.8 53.2 51.9 41.0 70.8 74.2
island-effects-coordinate_structure_constraint 87.1 96.1 91.5 96.6 54.4 92.4 76.8 96.0
local_attractor-in_question_with_aux 95.3 95.8 90.8 97.9 66.3 83.2 89.4 98.2
npi_licensing-matrix_question 83.7 67.9 50.1 71.5 42.0 53.6 85.2 78.7
npi_licensing-only_npi_licensor 70.7 73.1 88.4 60.0 63.8 76.0 89.5 99.8
quantifiers-existential_there 94.2 94.0 96.9 97.0 55.2 94.0 83.3 91.5
quantifiers-superlative 52.9 68.0 83.6 58.0 37.2 75.0 87.9 76.5
"""
_ZORRO_ROWS = {name: list(map(float, values)) for name, *values in map(str.split, _ZORRO.strip().splitlines())}
ZORRO = tuple(_ZORRO_ROWS)

# UnMasked's means over paradigms: Zorro holistic and pseudo-log-likelihood, BLiMP holistic.
_UNMASKED = (
    (CHILDES, 77.9, 78.0, 60.0),
    (NEWSELA, 81.5, 79.8, 62.1),
    (WIKIPEDIA, 72.7, 73.2, 60.7),
    (ALL_THREE, 83.0, 85.8, 64.6),
    ("RoBERTa-base, fairseq, AO-CHILDES, 5M words", 60.1, 72.4, 53.4),
    ("RoBERTa-base, fairseq, Wikipedia-1, ~5M", 68.9, 78.5, 57.5),
    (NYU_10M, 64.4, 78.1, 60.9),
    (LIU, 82.5, 90.2, 83.0),
)


def _rows() -> list[Published]:
    found = []
    for line in _BLIMP.strip().splitlines():
        model, source, overall, of_categories = line.split("|")
        categories = dict(zip(CATEGORIES, map(float, of_categories.split()), strict=True))
        found.append(Published("BLiMP", "pll", model, source, float(overall), categories=categories))
    for line in _BABYLM.strip().splitlines():
        model, over, of_categories, supplement, paradigms = line.split("|")
        categories, source = dict(zip(CATEGORIES, map(float, of_categories.split()))), "babylm/evaluation-pipeline-2023"
        found.append(Published("BLiMP, filtered", "pll", model, source, None, float(over), categories))
        by_name = dict(zip(SUPPLEMENT, map(float, paradigms.split())))
        found.append(Published("BLiMP supplement, filtered", "pll", model, source, float(supplement), paradigms=by_name))
    for model, holistic, pll, blimp in _UNMASKED:
        for metric, overall, column in (("holistic", holistic, 0), ("pll", pll, 1)):
            at = 2 * _ZORRO_MODELS.index(model) + column if model in _ZORRO_MODELS else None
            paradigms = {} if at is None else {name: values[at] for name, values in _ZORRO_ROWS.items()}
            found.append(Published("Zorro", metric, model, UNMASKED, overall, paradigms=paradigms))
        found.append(Published("BLiMP", "holistic", model, UNMASKED, blimp))
    for model, overall in (("BERT base", 84.7), ("RoBERTa base", 86.7), ("RoBERTa large", 87.5)):
        found.append(Published("BLiMP", "pll-word-l2r", model, KAUF, overall))
    return found


PUBLISHED = _rows()


def beside(suite: str, metric: str) -> list[Published]:
    """The rows of a suite by a metric, the lowest first."""
    rows = [row for row in PUBLISHED if (row.suite, row.metric) == (suite, metric)]
    return sorted(rows, key=lambda row: row.overall or row.over_categories)
