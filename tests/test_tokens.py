"""Texts to token files, and blocks of them: the ids of the whole text, whatever the pieces, and none held in memory."""

import json
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

import archport
from archport.errors import CheckpointError
from archport.generation.text import tokenizer as tokenizer_of
from archport.train import tokenizing
from archport.train.blocks import InOrder, Shuffled
from archport.train.made_tokenizers import make_tokenizer
from archport.train.token_file import is_token_file, read_tokens, write_tokens
from archport.train.tokenizing import encoder, text_files, tokenised

from .peak import peak_of

WORDS = (
    "To be, or not to be",
    "O Romeo, Romeo!",
    "  spaces   here",
    "\n",
    "\n\n",
    "don't 12345 ...",
    "naïve 日本語 🙂",
    "\t",
)
TEXT = "\n".join(word for _ in range(40) for word in WORDS)


def byte_level() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        [TEXT], trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    )
    return made


def of_llama(scheme: str) -> Tokenizer:
    """One that has a sign for each space and one before the text, and no words: as those of Llama 2."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first")
    made.train_from_iterator(TEXT.split("\n"), trainers.BpeTrainer(vocab_size=300, show_progress=False))
    if scheme == "metaspace":
        made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    else:
        made = Tokenizer.from_str(json.dumps(json.loads(made.to_str()) | {"pre_tokenizer": None}))
        made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    return made


KINDS = {
    "byte level": byte_level,
    "whole text": lambda: of_llama("normalizer"),
    "metaspace": lambda: of_llama("metaspace"),
    "gpt2": lambda: Tokenizer.from_file(str(DATA / "tokenizers/gpt2/tokenizer.json")),
    "pythia": lambda: Tokenizer.from_file(str(DATA / "tokenizers/pythia/tokenizer.json")),
}


DATA = Path(__file__).parents[2] / "shared" / "data"


@pytest.fixture(scope="module", params=KINDS)
def kind(request):
    if request.param in ("gpt2", "pythia") and not DATA.is_dir():
        pytest.skip("the shared data are not here")
    return KINDS[request.param]()


def written(folder: Path, text: str) -> Path:
    path = folder / "text.txt"
    path.write_bytes(text.encode())
    return path


@pytest.mark.parametrize("size", [64, 300, 5000])
def test_the_ids_are_those_of_the_whole_text(tmp_path, monkeypatch, kind, size):
    monkeypatch.setattr(tokenizing, "PIECE", size)
    monkeypatch.setattr(tokenizing, "BACK", size // 2)
    monkeypatch.setattr(tokenizing, "BATCH", 3)
    pieces = list(tokenised([written(tmp_path, TEXT)], kind))
    assert [token for piece in pieces for token in piece] == kind.encode(TEXT, add_special_tokens=False).ids
    assert len(pieces) > 1 or size == 5000


@settings(max_examples=60, deadline=None)
@given(st.lists(st.sampled_from([*WORDS, " ", "a", "\r\n", ".", "ab cd"]), min_size=1, max_size=200))
def test_the_ids_of_any_text_are_those_of_the_whole(tmp_path_factory, words):
    text, made = "".join(words), BYTES
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizing, "PIECE", 40)
        patch.setattr(tokenizing, "BACK", 20)
        patch.setattr(tokenizing, "BATCH", 2)
        pieces = tokenised([written(tmp_path_factory.mktemp("any"), text)], made)
        assert [token for piece in pieces for token in piece] == made.encode(text, add_special_tokens=False).ids


BYTES = byte_level()


def test_a_file_of_ids_is_mapped_and_read_by_safetensors_too(tmp_path):
    made = byte_level()
    files = [written(tmp_path, TEXT)]
    tokens = write_tokens(tmp_path / "ids", tokenised(files, made), made)
    assert tokens.ids.dtype == torch.uint16
    assert tokens.ids.tolist() == made.encode(TEXT).ids
    assert is_token_file(tmp_path / "ids")
    assert not is_token_file(files[0])
    files[0].write_text('a text that speaks of "archport.tokens"')
    assert not is_token_file(files[0])
    with safe_open(tmp_path / "ids", "pt") as file:
        save_file({"ids": file.get_tensor("ids")}, tmp_path / "again", file.metadata())
    assert is_token_file(tmp_path / "again")
    assert read_tokens(tmp_path / "again").ids.tolist() == tokens.ids.tolist()
    with safe_open(tmp_path / "ids", "np") as file:
        assert file.get_tensor("ids").tolist() == tokens.ids.tolist()
        assert file.metadata()["vocab_size"] == str(made.get_vocab_size())


def test_large_vocabularies_take_four_bytes(tmp_path):
    made = Tokenizer(models.WordLevel({f"w{at}": at for at in range(70_000)}, unk_token="w0"))
    tokens = write_tokens(tmp_path / "ids", [[1, 69_999], [2]], made)
    assert (tokens.ids.dtype, tokens.ids.tolist()) == (torch.uint32, [1, 69_999, 2])


def test_texts_of_a_folder_come_in_order_with_an_end_between_them(tmp_path):
    own = PreTrainedTokenizerFast(tokenizer_object=byte_level(), eos_token="<end>")
    own.save_pretrained(tmp_path / "tokenizer")
    (tmp_path / "data" / ".git").mkdir(parents=True)
    for name in ("b.txt", "a.txt", ".hidden", ".git/text"):
        (tmp_path / "data" / name).write_text(f"text of {name[0]}")
    reader = tokenizer_of(tmp_path / "tokenizer")
    files = text_files([tmp_path / "data"])
    assert [path.name for path in files] == ["a.txt", "b.txt"]
    ids = [token for piece in tokenised(files, reader) for token in piece]
    assert own.decode(ids) == "text of a<end>text of b"


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"good \xff bad", "not UTF-8 at 5"), (b"", "found no letter in it"), (None, "no such file or folder")],
)
def test_what_is_no_text_is_named(tmp_path, content, message):
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        list(tokenised(text_files([path]), BYTES))
    assert str(path) in str(error.value)


@pytest.mark.parametrize("content", [b"", b"text", b"\x08\0\0\0\0\0\0\0{}      "], ids=["empty", "text", "no ids"])
def test_a_file_that_holds_no_ids_is_refused(tmp_path, content):
    (tmp_path / "ids").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"ids: found no .*token ids"):
        read_tokens(tmp_path / "ids")


@pytest.mark.parametrize("name", ["bytes", "characters", "train:300"])
def test_a_tokenizer_that_is_made_is_read_by_transformers_and_loses_nothing(tmp_path, name):
    make_tokenizer(name, [written(tmp_path, TEXT)], tmp_path / "tokenizer")
    own = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    ids = own(TEXT)["input_ids"]
    assert own.decode(ids) == TEXT
    assert encoder(tokenizer_of(tmp_path / "tokenizer"))([TEXT]) == [ids]
    expected = {"bytes": 256, "characters": len(set(TEXT)), "train:300": 300}[name]
    assert len(own) == expected
    assert (own.eos_token is not None) == (name == "train:300")
    if name == "bytes":
        assert len(ids) == len(TEXT.encode())
    if name == "characters":
        assert own.convert_ids_to_tokens(ids) == list(TEXT)
        assert own("Ω" + TEXT)["input_ids"] == ids  # has no id


@pytest.mark.parametrize("size", ["", "12", "many", "256"])
def test_a_tokenizer_needs_a_size(tmp_path, size):
    with pytest.raises(CheckpointError, match="expected a number above 256"):
        make_tokenizer(f"train:{size}", [written(tmp_path, TEXT)], tmp_path / "tokenizer")


def test_blocks_are_views_shifted_by_one():
    ids = torch.arange(23)
    inputs, targets = archport.blocks(ids, 5)
    assert inputs.tolist() == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9], [10, 11, 12, 13, 14], [15, 16, 17, 18, 19]]
    assert torch.equal(targets, inputs + 1)
    assert inputs.data_ptr() == ids.data_ptr()
    assert archport.blocks(torch.arange(6), 5)[0].shape == (1, 5)


@pytest.mark.parametrize(
    ("ids", "context", "message"),
    [
        (torch.arange(5), 5, "found 5 tokens, expected 6"),
        (torch.zeros(2, 8, dtype=torch.long), 5, "shape .2, 8."),
        (torch.zeros(8), 5, "shape"),
        ([1, 2, 3], 2, "a list"),
        (torch.arange(9), 0, "context: found 0"),
    ],
)
def test_blocks_say_what_they_need(ids, context, message):
    with pytest.raises(ValueError, match=message):
        archport.blocks(ids, context)


@pytest.mark.parametrize("count", [6, 10, 11, 12, 53, 100])
def test_an_epoch_sees_each_block_once_and_the_next_cuts_elsewhere(count):
    context, ids = 5, torch.arange(count)
    data = Shuffled(ids, context, 1000, seed=3)
    epochs = [[data[at * data.count + n]["input_ids"] for n in range(data.count)] for at in range(4)]
    for epoch in epochs:
        tokens = torch.cat(epoch).tolist()
        assert len(set(tokens)) == len(tokens) == data.count * context
    assert data.count == max(1, (count - 1) // context - 1)
    for at in (0, 7, 950):
        assert torch.equal(data[at]["labels"], data[at]["input_ids"] + 1)
        assert torch.equal(Shuffled(ids, context, 1000, seed=3)[at]["labels"], data[at]["labels"])
    if count == 100:
        assert len({int(torch.cat(epoch).min()) for epoch in epochs}) > 1
        assert not torch.equal(torch.cat(epochs[0]), torch.cat(epochs[1]))
        assert not torch.equal(Shuffled(ids, context, 1000, seed=4)[0]["labels"], data[0]["labels"])


def test_validation_sees_the_same_blocks_each_time_spread_over_all():
    data = InOrder(torch.arange(1001), 10, most=80)
    assert [int(one["input_ids"][0]) for one in data] == [0, 140, 280, 420, 560, 700, 840, 990]
    assert len(InOrder(torch.arange(31), 10)) == 3
    assert len(InOrder(torch.zeros(50_000, dtype=torch.uint16), 1024)) == 48  # whole batches of 8
    assert len(InOrder(torch.zeros(50_000, dtype=torch.uint16), 300)) == 5 * 27


def test_a_corpus_is_not_held_in_memory(tmp_path):
    before = """
from pathlib import Path
from tokenizers import Tokenizer, models
from archport.train.blocks import Shuffled
from archport.train.token_file import write_tokens
made = Tokenizer(models.WordLevel({f"w{at}": at for at in range(70_000)}, unk_token="w0"))
piece = list(range(65_536))
write_tokens(Path(sys.argv[1] + "-first"), [piece], made)
"""
    code = """
tokens = write_tokens(Path(sys.argv[1]), (piece for _ in range(1000)), made)
data = Shuffled(tokens.ids, 128, 10_000, 0)
for at in range(300):
    data[at]
"""
    held = peak_of(before, code, tmp_path / "ids")
    size = (tmp_path / "ids").stat().st_size
    assert size > 250e6
    assert held < size / 2  # pages of the file that were looked at count, too
