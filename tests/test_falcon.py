"""Falcon's ALiBi, held to transformers' default attention, for its eager one adds it twice, and said so."""

import pytest

from archport.parity import verify
from archport.parity.references import loud
from archport.registry import architecture

FALCON = architecture("falcon")
OLD = {"grouped": False, "kv_groups": None, "norms": None, "multi_query": False, "parallel": False, "bias": True}
OLD |= {"context": 300}  # past what bfloat16 counts by ones


@pytest.mark.parametrize(
    "changes", [{}, OLD, OLD | {"heads": 4, "width": 64}], ids=["grouped", "falcon-rw", "four heads"]
)
def test_scores_are_lowered_by_distance_as_in_sdpa(changes, tmp_path):
    loud(FALCON, FALCON.sizes | {"alibi": True} | changes, "sdpa").save_pretrained(tmp_path)
    for against in ("sdpa", "eager"):
        report = verify(tmp_path, against=against)
        assert report.ok, report
        assert report.against == "transformers (sdpa)"
