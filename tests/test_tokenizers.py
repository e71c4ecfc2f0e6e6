"""Tokenizers: the ids and the text that transformers makes of the same folder, whatever its files and settings."""

import io
import json
import os
import random
import shutil
import subprocess
import sys
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import transformers
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import archport
from archport.errors import ArchportError, AsideWarning, CheckpointError, GenerationError
from archport.files.source import DEMO
from archport.generation.text import encoded, pieces
from archport.generation.tokenizers import chat_ids

from .commands import run
from .references import reference

EXAMPLES = int(os.environ.get("TOKENIZER_EXAMPLES", "8"))  # of each kind of tokenizer
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
    known = {word: at for at, word in enumerate(dict.fromkeys(["<unk>", SPECIAL, *WORDS, *".,!;'"]))}
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


@pytest.mark.parametrize("name", ["gpt2", "pythia"])
def test_real_tokenizers_are_read_as_transformers_reads_them(name, shared, tmp_path):
    folder = tmp_path / name
    shutil.copytree(shared / "tokenizers" / name, folder)
    (folder / "config.json").write_text(json.dumps({"model_type": "gpt2" if name == "gpt2" else "gpt_neox"}))
    tokenizer, expected = archport.tokenizer(folder), theirs(folder)
    for text in [*TEXT, Path(__file__).read_text()]:
        assert encoded(tokenizer, text) == expected(text, verbose=False)["input_ids"]


def test_the_bundled_tokenizer_needs_no_transformers_to_be_the_same():
    tokenizer, expected = archport.tokenizer(), theirs(DEMO)
    assert isinstance(tokenizer, Tokenizer)
    for text in TEXT:
        ids = expected(text)["input_ids"]
        assert tokenizer.encode(text).ids == ids
        assert tokenizer.decode(ids) == expected.decode(ids, skip_special_tokens=True)


@pytest.fixture
def model_folder(tmp_path) -> Callable[[Path], Path]:
    """A model for the tokenizer of a folder, saved beside it."""

    def made(source: Path, rows: int | None = None, name: str = "model") -> Path:
        folder = tmp_path / name
        shutil.copytree(source, folder)
        kind = json.loads((folder / "config.json").read_text())["model_type"]
        model = reference(kind, vocab_size=rows or len(theirs(folder)), context=128)
        (folder / "config.json").unlink()
        model.save_pretrained(folder)
        return folder

    return made


@pytest.mark.parametrize("kind", KINDS)
def test_generate_prints_what_transformers_decodes(kind, made, model_folder):
    folder = model_folder(made[kind])
    tokenizer, model = theirs(folder), transformers.AutoModelForCausalLM.from_pretrained(folder)
    given = "hello don't worry"
    ids = tokenizer(given, return_tensors="pt")["input_ids"]
    asked = {"do_sample": False, "max_new_tokens": 40, "eos_token_id": None, "pad_token_id": 0}
    row = model.generate(ids, attention_mask=ids.new_ones(ids.shape), **asked)[0]
    prompt, whole = (tokenizer.decode(part, skip_special_tokens=True) for part in (ids[0], row))
    loaded = archport.load(folder)
    ours = archport.generate(loaded, ids, greedy=True, max_new_tokens=40, end=[])[0]
    assert ours == row.tolist()
    shown = pieces(ours[ids.shape[-1] :], archport.tokenizer(loaded), (), ours[: ids.shape[-1]])
    assert "".join(shown) == whole.removeprefix(prompt)
    assert encoded(archport.tokenizer(folder), given) == ids[0].tolist()


@pytest.mark.filterwarnings("ignore::archport.errors.AsideWarning")
@pytest.mark.parametrize("kind", ["vocab and merges", "tokenizer.model"])  # as DialoGPT and as Llama have them
def test_every_file_of_a_tokenizer_is_exported_and_works_there(kind, made, model_folder, tmp_path):
    folder = model_folder(made[kind])
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "additional_chat_templates").mkdir()
    (folder / "additional_chat_templates" / "tools.jinja").write_text("{{ messages }}")
    beside = {"added_tokens.json": {"<|user|>": 1000}, "special_tokens_map.json": {"pad_token": "<|user|>"}}
    for name, content in beside.items():
        (folder / name).write_text(json.dumps(content))
    exported = archport.export(archport.load(folder), tmp_path / "exported")
    weights = {"config.json", "model.safetensors"}
    files = {path.relative_to(folder) for path in folder.rglob("*") if path.is_file() and path.name not in weights}
    assert len(files) >= 6
    for name in files:
        assert (exported / name).read_bytes() == (folder / name).read_bytes()
    for text in TEXT:
        assert encoded(archport.tokenizer(exported), text) == theirs(folder)(text)["input_ids"]


@pytest.mark.filterwarnings("ignore::archport.errors.AsideWarning")
@pytest.mark.parametrize("place", ["config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("kind", KINDS)
def test_another_folder_s_tokenizer_keeps_its_class_beside_another_config(kind, place, made, tmp_path):
    folder = tmp_path / "folder"
    shutil.copytree(made[kind], folder)
    if place == "config.json" and KINDS[kind][2] is not None:
        (folder / "tokenizer_config.json").unlink()
        (folder / "config.json").write_text(
            json.dumps({"model_type": KINDS[kind][1], "tokenizer_class": KINDS[kind][2]})
        )
    model = archport.build("gpt_neox", {"vocab_size": 400, "context": 32, "width": 24, "layers": 1, "heads": 3})
    exported = archport.export(model, tmp_path / "exported", tokenizer=folder)
    for text in TEXT:
        ids = theirs(folder)(text)["input_ids"]
        assert theirs(exported)(text)["input_ids"] == encoded(archport.tokenizer(exported), text) == ids


@pytest.mark.filterwarnings("ignore::archport.errors.AsideWarning")
def test_a_token_that_the_embedding_lacks_is_refused_only_when_it_is_used(made, model_folder):
    folder = model_folder(made["vocab and merges"], rows=len(theirs(made["vocab and merges"])))
    (folder / "special_tokens_map.json").write_text('{"pad_token": "[PAD]"}')
    model = archport.load(folder)
    tokenizer, rows = archport.tokenizer(model), model.config.vocab_size
    assert len(theirs(folder)) == rows + 1
    assert encoded(tokenizer, "hello", rows) == theirs(folder)("hello")["input_ids"]
    message = rf"the tokenizer has id {rows} for '\[PAD\]', the model has ids up to {rows - 1}"
    with pytest.raises(CheckpointError, match=message):
        encoded(tokenizer, "hello [PAD]", rows)


TEMPLATE = (
    "{% for message in messages %}<|{{ message.role }}|>{{ message.content }}{{ eos_token }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.mark.parametrize("where", ["tokenizer_config.json", "chat_template.jinja"])
def test_a_chat_begins_as_the_template_says(where, made, model_folder):
    folder = model_folder(made["vocab and merges"])
    settings = {"chat_template": TEMPLATE} if where == "tokenizer_config.json" else {}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    if not settings:
        (folder / where).write_text(TEMPLATE)
    tokenizer, model = theirs(folder), transformers.AutoModelForCausalLM.from_pretrained(folder)
    chat = [{"role": "user", "content": "hello"}]
    ids = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    row = model.generate(**ids, do_sample=False, max_new_tokens=9, pad_token_id=0, eos_token_id=-1)[0]
    answer = tokenizer.decode(row[ids["input_ids"].shape[-1] :], skip_special_tokens=True)
    assert chat_ids(archport.tokenizer(folder), "hello") == ids["input_ids"][0].tolist()
    if settings:
        words = ["generate", str(folder), "--prompt", "hello", "--chat", "--greedy", "--max-new-tokens", "9"]
        done = json.loads(run(*words, "--json").stdout)
        assert done["ids"] == [row.tolist()]
        assert done["texts"] == [answer]


@pytest.mark.parametrize("template", [None, "{{ raise_exception('no') }}", "{% for %}"])
def test_a_chat_without_a_template_that_works_is_one_line(template, made, tmp_path):
    folder = tmp_path / "folder"
    shutil.copytree(made["vocab and merges"], folder)
    if template is not None:
        (folder / "chat_template.jinja").write_text(template)
    expected = "no chat template found" if template is None else "its chat template cannot be used"
    with pytest.raises(GenerationError, match=expected) as error:
        chat_ids(archport.tokenizer(folder), "hello")
    assert len(str(error.value).splitlines()) == 1


REFUSED = {
    "nothing": ({}, "no tokenizer found, expected tokenizer.json, vocab.json and merges.txt, vocab.txt, or"),
    "no JSON": ({"tokenizer.json": "{"}, "transformers cannot read its tokenizer (tokenizer.json): "),
    "of no class that fits": ({"vocab.txt": "a\nb"}, "makes a GPT2Tokenizer of it, which has no tokens of its own"),
    "a class that is none": (
        {"vocab.txt": "a", "tokenizer_config.json": '{"tokenizer_class": "AutoModelForCausalLM"}'},
        "found tokenizer_class 'AutoModelForCausalLM', expected that of a tokenizer",
    ),
    "code of its own": (
        {
            "vocab.txt": "a",
            "tokenizer_config.json": '{"tokenizer_class": "X", "auto_map": {"AutoTokenizer": ["x.X", null]}}',
        },
        "asks for code of its own (auto_map), which is never run",
    ),
    "a key twice": ({"vocab.txt": "a", "tokenizer_config.json": '{"a": 1, "a": 2}'}, "found 'a' twice"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_tokenizers_that_cannot_be_read_are_one_line(case, tmp_path):
    files, message = REFUSED[case]
    for name, content in {"config.json": '{"model_type": "gpt2"}', **files}.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "x.py").write_text("raise SystemExit('run')")
    with pytest.raises(CheckpointError) as error:
        archport.tokenizer(tmp_path)
    assert message in str(error.value)
    assert len(str(error.value).splitlines()) == 1


WITHOUT = """
import sys
sys.modules["sentencepiece"] = None
import archport
from archport.errors import CheckpointError
for folder in sys.argv[1:]:
    try:
        archport.tokenizer(folder)
    except CheckpointError as error:
        print(error)
"""


def test_without_sentencepiece_the_line_says_what_to_install(made):
    folders = [str(made[kind]) for kind in ("tokenizer.model", "spiece.model")]
    words = [sys.executable, "-c", WITHOUT, *folders]
    lines = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert [line.startswith(folder) for line, folder in zip(lines, folders, strict=True)] == [True, True]
    assert all(line.endswith("sentencepiece is not installed: pip install archport[sentencepiece]") for line in lines)


def test_a_vocabulary_outside_of_the_folder_is_not_read(tmp_path, made):
    folder = tmp_path / "folder"
    shutil.copytree(made["vocab.txt"], folder)
    (folder / "vocab.txt").rename(tmp_path / "elsewhere.txt")
    (folder / "vocab.txt").symlink_to(tmp_path / "elsewhere.txt")
    with pytest.raises(CheckpointError, match=r"vocab\.txt: found a link to"):
        archport.tokenizer(folder)


def test_what_transformers_reads_otherwise_than_a_file_says_is_said(tmp_path, made):
    folder = tmp_path / "folder"
    shutil.copytree(made["tokenizer.json of words"], folder)
    (folder / "config.json").write_text('{"model_type": "gpt2"}')
    (folder / "tokenizer_config.json").unlink()
    with pytest.warns(AsideWarning, match=r"transformers makes a GPT2Tokenizer of it, with other ids than it says"):
        archport.tokenizer(folder)
    other = tmp_path / "other"
    shutil.copytree(made["vocab and merges"], other)
    (other / "added_tokens.json").write_text('{"[X]": 5000}')
    with pytest.warns(AsideWarning, match=rf"'\[X\]' is {len(theirs(other)) - 1}, not 5000"):
        archport.tokenizer(other)


def test_a_config_of_2019_names_no_architecture_and_gpt2_s_files_are_read(tmp_path, made):
    folder = tmp_path / "folder"
    shutil.copytree(made["vocab and merges"], folder)
    expected = theirs(folder)
    for config in ('{"n_ctx": 1024}', None):
        (folder / "config.json").unlink()
        if config is not None:
            (folder / "config.json").write_text(config)
        for text in TEXT:
            assert encoded(archport.tokenizer(folder), text) == expected(text)["input_ids"]
        (folder / "config.json").touch()


ODD = [None, 0, -1, 1e9, "", [], {}, "x", True, [1], {"type": "NFC"}, {"type": "Precompiled"}, 1 << 63]


def places(value, at=()):
    """Where something else could be put, a few of the vocabulary's places among them."""
    if isinstance(value, dict | list) and len(at) < 6:
        for key in list(value)[:8] if isinstance(value, dict) else range(min(len(value), 8)):
            yield (*at, key)
            yield from places(value[key], (*at, key))


@settings(max_examples=5 * EXAMPLES, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), odd=st.sampled_from(ODD), kind=st.sampled_from(["PreTrainedTokenizerFast", "GPT2Tokenizer"]))
@pytest.mark.filterwarnings("ignore::archport.errors.AsideWarning")
def test_anything_in_any_field_is_read_or_is_an_error_of_ours(made, tmp_path, data, odd, kind):
    whole = json.loads((made["tokenizer.json"] / "tokenizer.json").read_text())
    beside = {"tokenizer_class": kind, "added_tokens_decoder": {"300": {"content": "x"}}, "eos_token": "x"}
    beside |= {"chat_template": "a", "extra_special_tokens": ["q"], "clean_up_tokenization_spaces": True}
    files = {"tokenizer.json": whole, "tokenizer_config.json": beside, "config.json": {"model_type": "gpt2"}}
    *way, last = data.draw(st.sampled_from(sorted(places(files), key=str)))
    target = files
    for key in way:
        target = target[key]
    target[last] = odd
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    with suppress(ArchportError):
        tokenizer = archport.tokenizer(tmp_path)
        tokenizer.decode(encoded(tokenizer, TEXT[1]))
