"""Against the real weights, for whoever has a network: ``pytest -m network`` (downloads up to 12 GB for gpt-j-6b).

The expected values are recorded by others: transformers' own integration tests (tests/models/{gpt2,gptj,gpt_neox},
Apache-2.0), TransformerLens' recorded losses, minhub's recorded logits.
"""

import pytest
import torch
from tokenizers import Tokenizer

import archport

pytestmark = pytest.mark.network
HUB = {"endpoint": "https://huggingface.co"}


def tokenizer(model) -> Tokenizer:
    return Tokenizer.from_file(str(model.origin.folder / "tokenizer.json"))


@torch.no_grad()
def greedy(model, ids: list[int], length: int) -> list[int]:
    while len(ids) < length:
        ids = [*ids, int(model(torch.tensor([ids]))[0, -1].argmax())]
    return ids


@torch.no_grad()
def loss(model, text: str) -> float:
    ids = torch.tensor(tokenizer(model).encode(text).ids)
    return torch.nn.functional.cross_entropy(model(ids[None])[0, :-1], ids[1:]).item()


GPT2_IDS = [
    464,
    3290,
    373,
    1043,
    287,
    257,
    2214,
    1474,
    262,
    16246,
    286,
    2688,
    290,
    2688,
    27262,
    13,
    198,
    198,
    464,
    3290,
]
GPTJ_IDS = [464, 3290, 318, 257, 582, 338, 1266, 1545, 13, 632, 318, 257, 9112, 15185, 11, 290, 340, 318, 257, 1545]


def test_gpt2():
    model = archport.load("openai-community/gpt2", dtype="float32", **HUB)
    assert sum(parameter.numel() for parameter in model.parameters()) == 124439808
    assert greedy(model, GPT2_IDS[:2], len(GPT2_IDS)) == GPT2_IDS
    with torch.no_grad():
        last = model(torch.tensor([[15496, 995, 220]]))[0, -1, 1:5]
    assert torch.allclose(last, torch.tensor([-55.5639, -58.5087, -57.6649, -59.0031]), atol=1e-3)
    for prompt, expected in (
        ("Hello, my dog is a little", "Hello, my dog is a little bit of a mess. I'm not sure if he's going"),
        ("Today, I", "Today, I'm going to be doing a lot of research on this. I"),
    ):
        words = tokenizer(model)
        target = words.encode(expected).ids
        assert words.decode(greedy(model, words.encode(prompt).ids, len(target))) == expected


def test_pythia_70m():
    model = archport.load("EleutherAI/pythia-70m", dtype="float32", **HUB)
    assert loss(model, "Hello world!") == pytest.approx(4.659344673156738, abs=1e-3)
    with torch.no_grad():
        last = model(torch.tensor([[12092, 1533, 209]]))[0, -1, :5]
    expected = torch.tensor([1050.45031738281, 224.339889526367, 1047.935546875, 1045.73510742188, 1047.39111328125])
    assert torch.allclose(last, expected, rtol=1e-5)


def test_pythia_410m_deduped():
    model = archport.load("EleutherAI/pythia-410m-deduped", dtype="float32", **HUB)
    words = tokenizer(model)
    prompt = words.encode("My favorite food is").ids
    text = words.decode(greedy(model, prompt, len(prompt) + 20))
    assert text == "My favorite food is a good old-fashioned, old-fashioned, old-fashioned.\n\nI'm not sure"


def test_pythia_checkpoints_of_two_steps_differ():
    early, late = (archport.load("EleutherAI/pythia-14m", revision=step, **HUB) for step in ("step3000", "step143000"))
    assert early.origin.commit != late.origin.commit
    assert not torch.equal(early.embed.tokens.weight, late.embed.tokens.weight)


def test_gpt_j_6b():
    model = archport.load("EleutherAI/gpt-j-6B", revision="float16", **HUB)
    assert sum(parameter.numel() for parameter in model.parameters()) == 6050882784
    assert greedy(model, GPTJ_IDS[:2], len(GPTJ_IDS)) == GPTJ_IDS
