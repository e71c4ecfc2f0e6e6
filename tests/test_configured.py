"""generation_config.json: followed as transformers follows it where that is asked for, and said where it is not."""

import json
import os
import shutil
import tempfile
from pathlib import Path

import pytest
import torch
import transformers
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import archport
from archport.errors import AsideWarning, ConfigError
from archport.files.source import DEMO
from archport.generation.configured import ASIDE, BANS, OPTIONS, RENAMED, read_settings

from .commands import run
from .references import reference

EXAMPLES = int(os.environ.get("CONFIGURED_EXAMPLES", "25"))
PROMPT = [5, 6, 7, 5, 6, 9, 5]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    hf = reference("gpt_neox", vocab_size=40)
    hf.save_pretrained(folder)
    return folder, hf


def with_settings(saved, asked, file="generation_config.json"):
    """Our model and transformers' of a folder one of whose files asks for something."""
    folder, hf = saved
    asked = {"eos_token_id": 39, "pad_token_id": 0, **asked}
    if file == "config.json":
        folder = Path(shutil.copytree(folder, tempfile.mkdtemp(dir=folder.parent) + "/model"))
        write(folder, asked, None)
        return archport.load(folder), transformers.AutoModelForCausalLM.from_pretrained(folder)
    (folder / file).write_text(json.dumps(asked))
    hf.generation_config = transformers.GenerationConfig.from_pretrained(folder)
    return archport.load(folder), hf


SETTINGS = st.fixed_dictionaries(
    {},
    optional={
        "do_sample": st.sampled_from([True, False, 1, 0, "true"]),
        "temperature": st.sampled_from([0.5, 1.0, 1.7]),
        "top_k": st.sampled_from([0, 3, 50]),
        "top_p": st.sampled_from([0.6, 1.0]),
        "min_p": st.sampled_from([0.05, 0.2]),
        "repetition_penalty": st.sampled_from([0.8, 1.0, 1.4]),
        "no_repeat_ngram_size": st.integers(0, 3),
        "suppress_tokens": st.lists(st.integers(0, 38), max_size=9, unique=True),
        "bad_words_ids": st.lists(st.lists(st.integers(0, 39), min_size=1, max_size=3), min_size=1, max_size=6),
        "num_return_sequences": st.sampled_from([1, 3]),
        "max_new_tokens": st.sampled_from([4, 18]),
        "max_length": st.sampled_from([14, 25]),
        "min_length": st.sampled_from([9, 13]),
        "min_new_tokens": st.sampled_from([2, 4]),
    },
).filter(lambda asked: asked.get("do_sample") or asked.get("num_return_sequences", 1) == 1)


@settings(
    max_examples=EXAMPLES,
    deadline=None,
    phases=[Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(asked=SETTINGS, seed=st.integers(0, 99))
@pytest.mark.parametrize("file", ["generation_config.json", "config.json"])
@pytest.mark.filterwarnings("ignore::UserWarning:transformers")
def test_as_configured_is_what_transformers_generates(saved, file, asked, seed):
    model, hf = with_settings(saved, asked, file)
    ids = torch.tensor([PROMPT])
    options = {"max_new_tokens": 20} if not {"max_new_tokens", "max_length"} & asked.keys() else {}
    torch.manual_seed(seed)
    expected = hf.generate(ids, attention_mask=torch.ones_like(ids), **options).tolist()
    rows = archport.generate(model, PROMPT, seed=seed, **options | archport.as_configured(model, PROMPT))
    longest = max(map(len, rows))
    assert [row + [0] * (longest - len(row)) for row in rows] == expected
    assert archport.as_transformers(model).generation_config == hf.generation_config


def test_what_a_config_asks_for_is_said_where_no_other_file_does(saved):
    model, _ = with_settings(saved, {"forced_eos_token_id": 39, "top_k": 5, "use_cache": True}, "config.json")
    with pytest.warns(AsideWarning, match=r"/config\.json: not followed: forced_eos_token_id 39$"):
        assert archport.as_configured(model) == {"greedy": True, "top_k": 5}


def test_every_setting_of_transformers_is_followed_or_said(saved, tmp_path):
    """But for those that choose no token, whichever file asks for it."""
    names = vars(transformers.GenerationConfig()).keys() - {*ASIDE, *OPTIONS, *RENAMED, *BANS, "do_sample"}
    asked = {name: 0.25 for name in names if not name.startswith(("_", "output_"))}
    folder = Path(shutil.copytree(saved[0], tmp_path / "model"))
    write(folder, asked, None)
    assert read_settings(archport.load(folder)).others == asked
    write(folder, {}, asked)
    assert read_settings(archport.load(folder)).others == asked


@pytest.mark.parametrize("ends", [{}, {"eos_token_id": None}, {"eos_token_id": [3, 9]}, None])
def test_a_text_ends_where_transformers_ends_it(saved, tmp_path, ends):
    """Without a generation_config.json at the config's eos_token_id, with one only at its own."""
    folder = tmp_path / "model"
    shutil.copytree(saved[0], folder)
    ids = archport.generate(archport.load(folder), PROMPT, greedy=True, end=[])[0]
    write(folder, {"eos_token_id": ids[len(PROMPT) + 4]}, ends)
    hf = transformers.AutoModelForCausalLM.from_pretrained(folder)
    options = {"do_sample": False, "max_new_tokens": 20, "pad_token_id": 0}
    expected = hf.generate(torch.tensor([PROMPT]), **options)[0].tolist()
    assert archport.generate(archport.load(folder), PROMPT, greedy=True, max_new_tokens=20)[0] == expected
    ours = archport.as_transformers(archport.load(folder))
    assert ours.generate(torch.tensor([PROMPT]), **options)[0].tolist() == expected


def write(folder, changes, generation):
    """Change fields of a folder's config.json, and give it a generation_config.json or none."""
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))
    (folder / "generation_config.json").unlink(missing_ok=True)
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))


def test_what_no_option_follows_is_said(saved):
    model, _ = with_settings(saved, {"num_beams": 4, "typical_p": 0.9, "output_scores": True, "guidance_scale": 1.0})
    with pytest.warns(AsideWarning, match=r"generation_config\.json: not followed: num_beams 4, typical_p 0\.9$"):
        assert archport.as_configured(model) == {"greedy": True}
    assert archport.as_configured(archport.build("gpt2", SIZES)) == {"greedy": True}


SIZES = {"vocab_size": 97, "context": 32, "width": 24, "layers": 2, "heads": 3}


@pytest.mark.parametrize(
    "asked",
    [
        {"temperature": "hot"},
        {"bad_words_ids": 3},
        {"suppress_tokens": ["a"]},
        {"no_repeat_ngram_size": "x"},
        {"top_p": 2.0},
        {"num_return_sequences": -1},
        {"max_new_tokens": 0},
    ],
)
def test_settings_that_are_none_are_an_error_of_ours(saved, asked):
    folder, _ = saved
    (folder / "generation_config.json").write_text(json.dumps(asked))
    model = archport.load(folder)
    with pytest.raises(ConfigError, match=rf"/generation_config\.json: {next(iter(asked))}: found"):
        archport.as_configured(model, PROMPT)


def test_the_command_says_what_it_does_not_follow_and_follows_it_when_told(tmp_path):
    archport.export(archport.load(DEMO), tmp_path / "model")
    asked = {"do_sample": True, "temperature": 0.6, "top_k": 5, "num_beams": 2, "eos_token_id": 0}
    asked |= {"max_length": 6 + len(archport.tokenizer().encode("def f(x):").ids)}
    (tmp_path / "model" / "generation_config.json").write_text(json.dumps(asked))
    words = ["generate", str(tmp_path / "model"), "--prompt", "def f(x):", "--seed", "3", "--json"]
    model, tokenizer = archport.load(tmp_path / "model"), archport.tokenizer()
    ids, common = tokenizer.encode("def f(x):").ids, {"seed": 3, "vocabulary": 2048}
    plain = run(*words)
    assert json.loads(plain.stdout)["ids"] == archport.generate(model, ids, **common)
    [line] = plain.stderr.splitlines()
    unfollowed = (
        f"not followed unless --as-configured: temperature 0.6, top_k 5, max_length {asked['max_length']}; "
        "not followed: num_beams 2"
    )
    assert line.endswith(f"model/generation_config.json: {unfollowed}")
    told = run(*words, "--as-configured", "--top-k", "7")
    options = {"temperature": 0.6, "top_k": 7, "max_new_tokens": 6}
    assert json.loads(told.stdout)["ids"] == archport.generate(model, ids, **common, **options)
    assert told.stderr.endswith("model/generation_config.json: not followed: num_beams 2\n")
