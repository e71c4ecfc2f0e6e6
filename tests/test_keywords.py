"""Public functions: every option is a real parameter, an unknown one names the nearest, a wrong value is one line."""

import inspect
import re

import pytest
import torch

import archport
from archport.errors import ArchportError
from archport.files.source import companions
from archport.generation.options import Generation
from archport.keywords import strict_keywords

PUBLIC = {name: getattr(archport, name) for name in archport.__all__}
FUNCTIONS = {name: value for name, value in PUBLIC.items() if inspect.isfunction(value)} | {"companions": companions}
CALLABLE = FUNCTIONS | {"KVCache": archport.KVCache}


def options(function) -> list[str]:
    parameters = inspect.signature(function).parameters.values()
    return [one.name for one in parameters if one.kind is inspect.Parameter.KEYWORD_ONLY]


@pytest.mark.parametrize("name", CALLABLE)
def test_no_public_function_takes_just_any_keyword(name):
    kinds = {parameter.kind for parameter in inspect.signature(CALLABLE[name]).parameters.values()}
    assert inspect.Parameter.VAR_KEYWORD not in kinds


@pytest.mark.parametrize(("name", "option"), [(name, one) for name in CALLABLE for one in options(CALLABLE[name])])
def test_a_misspelt_keyword_names_the_one_that_was_meant(name, option):
    misspelt = option[:-1] + option[-1] * 2  # as offlinee
    message = f"got an unexpected keyword argument '{misspelt}'. Did you mean '{option}'?"
    with pytest.raises(TypeError, match=re.escape(message)):
        CALLABLE[name](**{misspelt: None})


@pytest.mark.parametrize("name", CALLABLE)
def test_a_keyword_like_no_other_lists_what_there_is(name):
    known = [one for one, parameter in inspect.signature(CALLABLE[name]).parameters.items() if parameter.kind != 2]
    message = f"got an unexpected keyword argument 'xyzzy', expected {', '.join(known) or 'none'}"
    with pytest.raises(TypeError, match=re.escape(message) + "$"):
        CALLABLE[name](xyzzy=1)


@pytest.mark.parametrize("source", [None, "ns/name"])
def test_the_keyword_of_transformers_leads_to_ours(source):
    for call in (archport.load, archport.plan):
        with pytest.raises(TypeError, match=r"'torch_dtype'\. Did you mean 'dtype'\?"):
            call(source, torch_dtype=torch.float16)


def test_what_a_function_raises_itself_is_left_alone():
    @strict_keywords
    def raising(*, number: int) -> int:
        return number + "one"

    with pytest.raises(TypeError, match="unsupported operand"):
        raising(number=1)
    with pytest.raises(TypeError, match="missing 1 required keyword-only argument: 'number'"):
        raising()


@pytest.mark.parametrize("function", [archport.generate, archport.stream], ids=["generate", "stream"])
def test_the_options_of_generate_are_those_of_generation(function):
    declared = {
        name: (parameter.default, parameter.annotation)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }
    expected = inspect.signature(Generation).parameters
    assert declared == {name: (parameter.default, parameter.annotation) for name, parameter in expected.items()}


OTHER = {
    "max_new_tokens": 3,
    "samples": 1,
    "greedy": True,
    "temperature": 0.5,
    "top_k": 7,
    "top_p": 0.7,
    "min_p": 0.2,
    "repetition_penalty": 1.5,
    "seed": 5,
    "end": (1,),
    "until": len,
    "vocabulary": 9,
    "ban": set,
    "slide": True,
    "compiled": True,
}


@pytest.mark.parametrize("option", OTHER)
@pytest.mark.parametrize("function", [archport.generate, archport.stream], ids=["generate", "stream"])
def test_each_option_reaches_the_generation(function, option, monkeypatch):
    used = []
    monkeypatch.setattr("archport.generation.decoding.token_rows", lambda _, __, how: used.append(how) or iter(()))
    function(MODEL, [1, 2], **{option: OTHER[option]})
    assert used == [Generation(**{option: OTHER[option]})]
    assert set(OTHER) == set(inspect.signature(Generation).parameters)


# --- values of another type ---

MODEL = archport.load()
HF = MODEL.origin.hf
WRONG = {
    "load": lambda: archport.load(3),
    "load: revision": lambda: archport.load("ns/name", revision=3),
    "load: dtype": lambda: archport.load(dtype=3),
    "load: device": lambda: archport.load(device=1.5),
    "load: linears": lambda: archport.load(linears=[]),
    "load: token": lambda: archport.load("ns/name", token=3),
    "load: cache_dir": lambda: archport.load("ns/name", cache_dir=3),
    "load: endpoint": lambda: archport.load("ns/name", endpoint=3),
    "plan": lambda: archport.plan([]),
    "build": lambda: archport.build(3, {}),
    "build: cfg": lambda: archport.build("gpt2", None),
    "from_state_dict": lambda: archport.from_state_dict(3, {}),
    "from_state_dict: tensors": lambda: archport.from_state_dict(HF, 3),
    "from_state_dict: names": lambda: archport.from_state_dict(HF, {1: torch.ones(1)}),
    "export": lambda: archport.export(None, "folder"),
    "export: folder": lambda: archport.export(MODEL, 3),
    "generate": lambda: archport.generate(None, [1]),
    "generate: another library's": lambda: archport.generate(torch.nn.Linear(2, 2), [1]),
    "generate: ids": lambda: archport.generate(MODEL, None),
    "generate: temperature": lambda: archport.generate(MODEL, [1], temperature=torch.ones(2)),
    "stream": lambda: archport.stream(None, [1]),
    "as_configured": lambda: archport.as_configured(None),
    "as_configured: ids": lambda: archport.as_configured(MODEL, 3),
    "score": lambda: archport.score(None, [1, 2]),
    "score: ids": lambda: archport.score(MODEL, None),
    "tokenizer": lambda: archport.tokenizer(3),
    "tokenizer: another library's": lambda: archport.tokenizer(torch.nn.Linear(2, 2)),
    "verify": lambda: archport.verify(3),
    "sites": lambda: archport.sites(None),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_value_of_another_type_is_one_line_of_ours(case):
    with pytest.raises(ArchportError, match=r"found|expected") as caught:
        WRONG[case]()
    assert len(str(caught.value).splitlines()) == 1


def test_a_token_is_not_shown():
    from archport.files.hub.access import HubAccess

    assert "hf_secret" not in repr(HubAccess(token="hf_secret"))
