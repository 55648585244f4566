"""Tokenizers as others publish them: all files of a folder as one tokenizer.json.

A text's ids do not hang on tokenizer.json alone: tokenizer_config.json may ask for a space before the text or name other
special tokens, added_tokens.json and special_tokens_map.json add more. Here they are put together as transformers'
AutoTokenizer does it, by the `tokenizers` library. Where its versions differ, tokenizer.json holds, as it does up to 4.57: 5
drops a normalizer and a post-processor from a folder of RobertaTokenizer, and lets `<mask>` keep the space before it where
there are but vocab.json and merges.txt.
"""

import functools
import json
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import tokenizers

from roberta_jax import storage
from roberta_jax.errors import UserError
from roberta_jax.output import show, to_json
from roberta_jax.tokenization.tokenizer import ByteLevelBPE

JSON = "tokenizer.json"
# What is read of a folder.
FILES = (
    *(JSON, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "vocab.txt", "config.json"),
)
_ROLES = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")  # in the order in which transformers adds their tokens
# Of each, the roles whose token is taken for it, and names that it has where no file says one.
NAMES = {
    "bos": (("cls", "bos"), ("<s>", "[CLS]")),
    "pad": (("pad",), ("<pad>", "[PAD]")),
    "eos": (("sep", "eos"), ("</s>", "[SEP]")),
    "unk": (("unk",), ("<unk>", "[UNK]")),
    "mask": (("mask",), ("<mask>", "[MASK]")),
}
# Classes of transformers that change what tokenizer.json says, by what tokenizer_config.json does, and a model's own one.
_BYTE_LEVEL = ("RobertaTokenizer", "BartTokenizer", "LongformerTokenizer", "GPT2Tokenizer")
_OF_BERT = ("BertTokenizer", "ElectraTokenizer", "DistilBertTokenizer")
_OF_MODEL = {"roberta": "RobertaTokenizer", "xlm-roberta": "XLMRobertaTokenizer", "camembert": "CamembertTokenizer"}
_SURROGATE = re.compile("[\ud800-\udfff]")

Frame = tuple[tuple[int, ...], ...]  # the ids before, between and behind a row's texts


class Published(NamedTuple):
    """What a folder's files say together."""

    fields: dict[str, Any]  # a tokenizer.json
    names: dict[str, str]  # of the tokens that are bos, pad, eos, unk and mask; unk may be missing
    types: bool  # whether transformers tells the model which token is of the second text
    library: tokenizers.Tokenizer  # the same: a large one takes seconds to make


def read(folder: str | Path) -> Published | None:
    """A folder's tokenizer; None where no file there says one that is read here.

    Raises:
      UserError: a file is damaged, or a token that RoBERTa's texts need is missing.
    """
    there = storage.names(folder)
    config, settings = (_object(folder, name, there) for name in ("config.json", "tokenizer_config.json"))
    kind = settings.get("tokenizer_class") or config.get("tokenizer_class") or _OF_MODEL.get(str(config.get("model_type")), "")
    kind = str(kind).removesuffix("Fast")
    if "added_tokens_decoder" not in settings:  # as it was before that
        settings = settings | _object(folder, "special_tokens_map.json", there)
    origin = storage.join(folder, JSON if JSON in there else "vocab.txt" if "vocab.json" not in there else "vocab.json")
    try:
        if JSON in there:
            fields = _of_class(storage.parse_json(storage.read_bytes(origin)), kind, settings)
        elif {"vocab.json", "merges.txt"} <= there:
            fields = _of_byte_level(*ByteLevelBPE.read_files(folder), settings, origin)
        elif "vocab.txt" in there and kind in _OF_BERT:
            fields = _of_vocab_txt(storage.read_text(origin), settings, origin)
        else:
            return None
        fast = tokenizers.Tokenizer.from_str(to_json(fields))
        _add_tokens(fast, kind, settings, _object(folder, "added_tokens.json", there))
    except UserError:
        raise
    except Exception as error:  # the library raises Exception itself
        raise UserError(
            f"{origin} is no tokenizer that the tokenizers library reads, by itself or with tokenizer_config.json, "
            f"special_tokens_map.json and added_tokens.json beside it: {storage.reason(error)}."
        ) from None
    if settings.get("split_special_tokens"):
        raise UserError(f"{folder}: tokenizer_config.json has split_special_tokens, special tokens as text; expected it false.")
    if dropout := getattr(fast.model, "dropout", None):
        _say_once(f"! {origin} has BPE dropout {dropout:g}, which cuts a text another way each time; here it is off.")
        fast.model.dropout = None
    names = _names(fast, settings, origin)
    added = {token.content for token in fast.get_added_tokens_decoder().values()}
    # As what `JsonTokenizer.save` writes is read: else what was saved would be another tokenizer.
    fast.add_special_tokens([_special(token) for token in (names | around(fast, folder)).values() if token not in added])
    fast.no_truncation()
    fast.no_padding()
    inputs = settings.get("model_input_names")
    types = "token_type_ids" in inputs if isinstance(inputs, list) else kind in _OF_BERT
    return Published(json.loads(fast.to_str()), names, types, fast)


@functools.cache
def _say_once(sentence: str) -> None:
    show(sentence, sys.stderr)


def _object(folder: str | Path, name: str, there: set[str]) -> dict[str, Any]:
    return storage.read_json(storage.join(folder, name)) if name in there else {}


def _content(token: Any) -> str:
    """A token's text, which stands alone or among its flags."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def _of_class(fields: dict[str, Any], kind: str, settings: dict[str, Any]) -> dict[str, Any]:
    """tokenizer.json with what transformers' class changes by tokenizer_config.json."""
    before, normalizer = fields.get("pre_tokenizer"), fields.get("normalizer")
    if kind in _BYTE_LEVEL and before and before["type"] == "ByteLevel":
        before["add_prefix_space"] = bool(settings.get("add_prefix_space", False))
    if kind in _OF_BERT and normalizer and normalizer["type"] == "BertNormalizer":
        normalizer.update(_bert_normalizer(settings))
    return fields


def _bert_normalizer(settings: dict[str, Any]) -> dict[str, Any]:
    return {
        "lowercase": bool(settings.get("do_lower_case", True)),
        "strip_accents": settings.get("strip_accents"),
        "handle_chinese_chars": bool(settings.get("tokenize_chinese_chars", True)),
    }


def _name(settings: dict[str, Any], role: str, otherwise: str) -> str:
    return _content(settings.get(f"{role}_token")) or otherwise


def _of_byte_level(
    vocab: dict[str, int], merges: list[tuple[str, str]], settings: dict[str, Any], origin: str
) -> dict[str, Any]:
    """RobertaTokenizer's tokenizer.json for a vocabulary and its merges."""
    whole = tokenizers.Tokenizer(tokenizers.models.BPE(vocab, merges))
    whole.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=bool(settings.get("add_prefix_space", False)))
    whole.decoder = tokenizers.decoders.ByteLevel()
    cls, sep = _name(settings, "cls", "<s>"), _name(settings, "sep", "</s>")
    _require(vocab, (cls, sep), origin)
    whole.post_processor = tokenizers.processors.RobertaProcessing((sep, vocab[sep]), (cls, vocab[cls]))
    names = {"bos": "<s>", "pad": "<pad>", "eos": "</s>", "unk": "<unk>", "mask": "<mask>"}
    tokens = {role: settings.get(f"{role}_token") or name for role, name in names.items()}
    whole.add_special_tokens(
        [
            _added(token) if isinstance(token, dict) else _special(str(token), lstrip=role == "mask")
            for role, token in tokens.items()
            if _content(token) in vocab
        ]
    )
    return json.loads(whole.to_str())


def _of_vocab_txt(text: str, settings: dict[str, Any], origin: str) -> dict[str, Any]:
    """BertTokenizer's tokenizer.json for its vocab.txt, a token a line."""
    vocab = {line.rstrip("\r"): i for i, line in enumerate(text.removesuffix("\n").split("\n"))}
    unk, cls, sep = (_name(settings, role, f"[{role.upper()}]") for role in ("unk", "cls", "sep"))
    _require(vocab, (unk, cls, sep), origin)
    whole = tokenizers.Tokenizer(tokenizers.models.WordPiece(vocab, unk_token=unk))
    whole.normalizer = tokenizers.normalizers.BertNormalizer(**_bert_normalizer(settings))
    whole.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    whole.decoder = tokenizers.decoders.WordPiece()
    whole.post_processor = tokenizers.processors.TemplateProcessing(
        single=f"{cls} $A {sep}", pair=f"{cls} $A {sep} $B:1 {sep}:1", special_tokens=[(cls, vocab[cls]), (sep, vocab[sep])]
    )
    names = [unk, cls, sep, *(_name(settings, role, f"[{role.upper()}]") for role in ("pad", "mask"))]
    whole.add_special_tokens([_special(name) for name in names if name in vocab])
    return json.loads(whole.to_str())


def _require(vocab: dict[str, int], names: Iterable[str], origin: str) -> None:
    if missing := next((name for name in names if name not in vocab), None):
        raise UserError(f"{origin} has no token {missing}, which RoBERTa's texts need.")


def _special(token: str, lstrip: bool = False) -> tokenizers.AddedToken:
    return tokenizers.AddedToken(token, lstrip=lstrip, normalized=False, special=True)


def _add_tokens(fast: tokenizers.Tokenizer, kind: str, settings: dict[str, Any], older: dict[str, Any]) -> None:
    """The tokens that stand beside tokenizer.json, in transformers' order: each not yet known takes the next id.

    Args:
      older: added_tokens.json, token → id.
    """
    extra = settings.get("extra_special_tokens") or ()
    extra = extra.values() if isinstance(extra, dict) else extra  # by the name of an attribute of transformers' object
    more = [*(settings.get("additional_special_tokens") or ()), *extra]
    tokens = [settings[f"{role}_token"] for role in _ROLES if settings.get(f"{role}_token")] + more
    special = {_content(token) for token in tokens}
    listed: dict[int, tokenizers.AddedToken] = {}
    if "added_tokens_decoder" in settings:
        listed = {int(i): _added(flags) for i, flags in settings["added_tokens_decoder"].items()}
    else:
        for token, i in older.items():
            listed[int(i)] = tokenizers.AddedToken(token, normalized=token not in special, special=token in special)
    known = {repr(token) for token in fast.get_added_tokens_decoder().values()}
    new = [token for _, token in sorted(listed.items(), key=lambda item: item[0]) if repr(token) not in known]
    for token in new:
        token.special = token.special or token.content in special
    fast.add_tokens(new)
    there = {token.content for token in fast.get_added_tokens_decoder().values()}
    for token in tokens:
        if _content(token) not in there:
            there.add(_content(token))
            swallows = kind in _BYTE_LEVEL and not isinstance(token, dict) and token == settings.get("mask_token")
            fast.add_tokens([_added(token) if isinstance(token, dict) else _special(str(token), lstrip=swallows)])


def _added(flags: dict[str, Any]) -> tokenizers.AddedToken:
    names = ("single_word", "lstrip", "rstrip", "normalized", "special")
    return tokenizers.AddedToken(flags["content"], **{name: bool(flags[name]) for name in names if name in flags})


def _names(fast: tokenizers.Tokenizer, settings: dict[str, Any], origin: str) -> dict[str, str]:
    found = {}
    for name, (roles, usual) in NAMES.items():
        candidates = (*(_content(settings.get(f"{role}_token")) for role in roles), *usual)
        token = next((token for token in candidates if token and fast.token_to_id(token) is not None), None)
        if token is not None:
            found[name] = token
        elif name != "unk":
            raise UserError(
                f"{origin} has no token {usual[0]}, which RoBERTa's texts need, and tokenizer_config.json no other."
            )
    return found


def frames(fast: tokenizers.Tokenizer, origin: str | Path) -> tuple[Frame, Frame, bool]:
    """What the post-processor puts around one text and around two, and whether it gives the second another type."""
    probe = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    if fast.post_processor:
        probe.post_processor = fast.post_processor
    found = []
    for texts in (["a"], ["a", "a"]):
        encoding = probe.encode(*texts)
        at = [i for i, text in enumerate(encoding.sequence_ids) if text is not None]
        if [encoding.sequence_ids[i] for i in at] != list(range(len(texts))):
            raise UserError(f"{origin}: its post-processor does not put each text once and in order; nothing here reads that.")
        cuts = [-1, *at, len(encoding.ids)]
        found.append(tuple(tuple(encoding.ids[start + 1 : end]) for start, end in zip(cuts, cuts[1:])))
    return *found, len(set(encoding.type_ids)) > 1


def around(fast: tokenizers.Tokenizer, origin: str | Path) -> dict[str, str]:
    """The tokens that the post-processor puts before and behind a text, by their names among NAMES."""
    before, behind = frames(fast, origin)[0]
    return {name: fast.id_to_token(ids[0]) for name, ids in (("bos", before[:1]), ("eos", behind[-1:])) if ids}


def dumped(fields: dict[str, Any]) -> str:
    """A tokenizer.json that old versions of the library open too: there a merge is one string."""
    model = fields["model"]
    merges = model.get("merges")
    if merges and not any(" " in part for merge in merges for part in merge if not isinstance(merge, str)):
        model = model | {"merges": [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]}
    return to_json(fields | {"model": model})


def readable(text: str | bytes) -> str:
    """The text that the library takes: U+FFFD for what is no character."""
    text = text.decode("utf-8", "surrogateescape") if isinstance(text, bytes) else text
    return _SURROGATE.sub("\ufffd", text)


def byte_level(published: Published) -> ByteLevelBPE | None:
    """Ours for a tokenizer.json that says exactly what ours does, in all that changes ids."""
    fields, model = published.fields, published.fields["model"]
    before = fields["pre_tokenizer"] or {}
    if (
        model.get("type") != "BPE"
        or fields["normalizer"] is not None
        or (before.get("type"), before.get("add_prefix_space"), before.get("use_regex", True)) != ("ByteLevel", False, True)
        or any(model.get(name) for name in ("dropout", "continuing_subword_prefix", "end_of_word_suffix", "ignore_merges"))
    ):
        return None
    vocab = model["vocab"] | {token["content"]: token["id"] for token in fields["added_tokens"]}
    merges = [tuple(merge.split(" ")) if isinstance(merge, str) else tuple(merge) for merge in model["merges"]]
    flags = {(t["content"], t["single_word"], t["lstrip"], t["rstrip"], t["special"]) for t in fields["added_tokens"]}
    try:
        found = ByteLevelBPE(vocab, merges)
    except UserError:
        return None
    ours = {(token, False, token == "<mask>", False, True) for token in found.special}
    single, pair, _ = frames(published.library, "")
    same = (single, pair) == usual_frames(found.bos, found.eos) and flags == ours
    return found if same and set(published.names.values()) == set(found.special) else None


def usual_frames(bos: int, eos: int) -> tuple[Frame, Frame]:
    """RoBERTa's own: `<s> A </s>`, `<s> A </s></s> B </s>`."""
    return ((bos,), (eos,)), ((bos,), (eos, eos), (eos,))
