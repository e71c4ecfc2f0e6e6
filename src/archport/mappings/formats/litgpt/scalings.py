"""How litgpt says that rotary frequencies are changed: by the settings that it has for the way."""

from dataclasses import replace

from ....translate.table import Table


def with_scalings(table: Table) -> tuple[Table, ...]:
    """A table for each way to change rotary frequencies, which its config says by what it has settings for."""
    place = "rope_adjustments"
    factor = {"rotary_factor": f"{place}.factor"}
    llama3 = factor | {
        "rotary_low_factor": f"{place}.low_freq_factor",
        "rotary_high_factor": f"{place}.high_freq_factor",
        "rotary_context": f"{place}.original_max_seq_len",
    }

    def scaled(kind: str, settings: dict[str, str]) -> Table:
        fixed = {**table.fixed, "rotary_scaling": (kind,)}
        return replace(table, config={**table.config, **settings}, fixed=fixed)

    plain = replace(table, requires={**table.requires, place: ()})
    condensed = replace(
        scaled("linear", {"rotary_factor": "rope_condense_ratio"}),
        requires={field: allowed for field, allowed in plain.requires.items() if field != "rope_condense_ratio"},
    )
    ways = replace(plain, fixed=scaled("default", {}).fixed), scaled("linear", factor), scaled("llama3", llama3)
    return (*ways, condensed)
