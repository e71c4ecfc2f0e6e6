"""Tokenizers: the ids and the text that transformers makes of the same folder, whatever its files and settings."""

import io
import json
import os
import random
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import archport
from archport.errors import AsideWarning, CheckpointError, GenerationError
from archport.files.source import DEMO
from archport.generation.text import encoded, pieces

from .references import reference
from .test_cli import run

EXAMPLES = int(os.environ.get("TOKENIZER_EXAMPLES", "12"))  # of each kind of tokenizer
TEXT = [
    "a small corpus, it is n't much ; but don't worry !",
    "naïve 漢字 and 🙂 <|user|> hello Hello 123",
    "def f(x):\n  y",
]
SPECIAL = "<|endoftext|>"
WORDS = sorted({piece for text in TEXT for word in text.lower().split() for piece in (word, f"##{word[-1]}", word[0])})


def byte_level() -> Tokenizer:
    """GPT-2's kind of tokenizer."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    kept = trainers.BpeTrainer(vocab_size=320, special_tokens=[SPECIAL], initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(TEXT, kept)
    return tokenizer


def vocab_and_merges(folder: Path) -> None:
    byte_level().model.save(str(folder))


def whole_file(folder: Path) -> None:
    byte_level().save(str(folder / "tokenizer.json"))


def word_pieces(folder: Path) -> None:
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *".,!;'", *WORDS]))


def words_in_a_file(folder: Path) -> None:
    known = {word: at for at, word in enumerate(["<unk>", SPECIAL, *WORDS, *".,!;'"])}
    tokenizer = Tokenizer(models.WordLevel(known, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.save(str(folder / "tokenizer.json"))


def sentence_pieces(folder: Path, name: str, kind: str) -> None:
    sentencepiece = pytest.importorskip("sentencepiece")
    model = io.BytesIO()
    sizes = {"vocab_size": 340 if kind == "bpe" else 300, "byte_fallback": True, "hard_vocab_limit": False}
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(TEXT), model_writer=model, model_type=kind, minloglevel=2, **sizes
    )
    (folder / name).write_bytes(model.getvalue())


# A kind of tokenizer: the files it is made of, the architecture, and the class where files do not say it.
KINDS: dict[str, tuple[Callable[[Path], None], str, str | None]] = {
    "vocab and merges": (vocab_and_merges, "gpt2", None),
    "vocab and merges of another family": (vocab_and_merges, "gpt_neox", "GPT2Tokenizer"),
    "tokenizer.json": (whole_file, "gpt2", None),
    "tokenizer.json, as it is": (whole_file, "gpt_neox", "PreTrainedTokenizerFast"),
    "tokenizer.json of words": (words_in_a_file, "llama", "PreTrainedTokenizerFast"),
    "vocab.txt": (word_pieces, "gpt2", "BertTokenizer"),
    "tokenizer.model": (lambda folder: sentence_pieces(folder, "tokenizer.model", "bpe"), "llama", "LlamaTokenizer"),
    "spiece.model": (lambda folder: sentence_pieces(folder, "spiece.model", "unigram"), "gpt2", "T5Tokenizer"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> dict[str, Path]:
    """A folder of each kind, with a config and the files of its vocabulary."""
    folders = {}
    for name, (make, architecture, kind) in KINDS.items():
        folders[name] = tmp_path_factory.mktemp("tokenizer")
        make(folders[name])
        declared = {} if kind is None else {"tokenizer_class": kind}
        (folders[name] / "config.json").write_text(json.dumps({"model_type": architecture}))
        if declared:
            (folders[name] / "tokenizer_config.json").write_text(json.dumps(declared))
    return folders


def theirs(folder: Path):
    return transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


FLAGS = st.sampled_from([True, False])
TOKEN = st.fixed_dictionaries(
    {"content": st.sampled_from(["<|user|>", "[X]", "hello", " y"]), "special": FLAGS},
    optional=dict.fromkeys(("lstrip", "rstrip", "normalized", "single_word"), FLAGS),
)
SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "add_prefix_space": FLAGS,
        "add_bos_token": FLAGS,
        "add_eos_token": FLAGS,
        "clean_up_tokenization_spaces": FLAGS,
        "do_lower_case": FLAGS,
        "split_special_tokens": FLAGS,
        "legacy": FLAGS,
        "errors": st.just("replace"),
        "model_max_length": st.sampled_from([4, 1024]),
        "padding_side": st.sampled_from(["left", "right"]),
        "bos_token": st.sampled_from(["<s>", SPECIAL, "<|user|>"]),
        "eos_token": st.sampled_from(["</s>", SPECIAL]),
        "pad_token": st.sampled_from(["[PAD]", SPECIAL]),
        "unk_token": st.sampled_from(["<unk>", "[UNK]"]),
        "additional_special_tokens": st.lists(st.sampled_from(["<|user|>", "[X]"]), unique=True),
    },
)
BESIDE = st.fixed_dictionaries(
    {},
    optional={
        "added_tokens.json": st.lists(st.sampled_from(["<|user|>", "[X]", "漢"]), unique=True, min_size=1),
        "special_tokens_map.json": st.dictionaries(
            st.sampled_from(["eos_token", "pad_token"]), st.sampled_from(["[X]", "<|user|>"])
        ),
        "added_tokens_decoder": st.lists(TOKEN, min_size=1, max_size=2, unique_by=lambda token: token["content"]),
        "padding and truncation": FLAGS,
    },
)
TEXTS = st.lists(
    st.sampled_from(
        [*TEXT[0].split(), *TEXT[1].split(), " ", "  ", "\n", ".", " n't", " do not", "é", "[X]", SPECIAL, "<s>"]
    ),
    max_size=14,
).map(" ".join)


def arranged(folder: Path, asked: dict, beside: dict) -> None:
    """Put settings and files beside a vocabulary, as transformers and older versions of it wrote them."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text()) if path.exists() else {}
    size = 400  # above each of the vocabularies
    if added := beside.get("added_tokens_decoder"):
        config["added_tokens_decoder"] = {str(size + at): token for at, token in enumerate(added)}
    if config | asked:
        path.write_text(json.dumps(config | asked))
    if names := beside.get("added_tokens.json"):
        (folder / "added_tokens.json").write_text(json.dumps({name: size + at for at, name in enumerate(names)}))
    if (names := beside.get("special_tokens_map.json")) is not None:
        (folder / "special_tokens_map.json").write_text(json.dumps(names))
    whole = folder / "tokenizer.json"
    if beside.get("padding and truncation") and whole.exists():
        tokenizer = Tokenizer.from_file(str(whole))
        tokenizer.enable_padding(length=12)
        tokenizer.enable_truncation(max_length=12)
        tokenizer.save(str(whole))


@pytest.mark.parametrize("kind", KINDS)
@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(asked=SETTINGS, beside=BESIDE, text=TEXTS, seed=st.integers(0, 9))
def test_ids_and_text_are_those_of_transformers(kind, made, tmp_path, asked, beside, text, seed):
    folder = tmp_path / "folder"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(made[kind], folder)
    arranged(folder, asked, beside)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AsideWarning)
        try:
            expected = theirs(folder)
            ids = expected(text)["input_ids"]
        except Exception:
            with pytest.raises(CheckpointError, match=r"transformers cannot read|cannot encode|has no tokens") as error:
                encoded(archport.tokenizer(folder), text)
            assert len(str(error.value).splitlines()) == 1
            return
        tokenizer = archport.tokenizer(folder)
    assert encoded(tokenizer, text) == ids
    assert tokenizer.get_vocab() == expected.get_vocab()
    drawn = random.Random(seed).choices(sorted(expected.get_vocab().values()), k=150)
    for new in (ids, drawn):
        whole = expected.decode(ids + new, skip_special_tokens=True)
        assert tokenizer.decode(ids + new) == whole
        added = "".join(pieces(new, tokenizer, (), ids))
        assert added == whole[len(expected.decode(ids, skip_special_tokens=True)) :]
