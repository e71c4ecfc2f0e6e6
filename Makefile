# Two commands on a fresh machine: make demo, make test.
PYTHON ?= python3
VENV := .venv
COMPAT := .venv-compat
PEERS := .venv-peers
# The oldest transformers archport accepts; pyproject.toml says the same.
OLDEST := transformers==4.51.*
# Fuzzed inputs for each door.
RUNS := 20000

.PHONY: demo test lint compat peers fuzz docs benchmark clean

demo: $(VENV)/ready
	$(VENV)/bin/archport load
	$(VENV)/bin/archport verify

test: $(VENV)/ready
	$(VENV)/bin/python -m pytest -q -n 2

lint: $(VENV)/ready
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy --strict src
	$(VENV)/bin/lint-imports

compat: $(COMPAT)/ready
	$(COMPAT)/bin/python -m pytest -q -n 2 tests/test_parity.py tests/test_files.py tests/test_table.py tests/test_config.py

peers: $(PEERS)/ready
	HF_HUB_OFFLINE=1 $(PEERS)/bin/python -m pytest -q -m peers tests/peers -s

fuzz: $(VENV)/ready
	$(VENV)/bin/python -m pip install -q -c constraints.txt -e '.[fuzz]'
	$(VENV)/bin/python -m tests.fuzz --runs $(RUNS)

docs: $(VENV)/ready
	$(VENV)/bin/python tools/write_docs.py
	$(VENV)/bin/archport plot bundled attention --layer 2 --output docs/pictures/attention.png --force
	$(VENV)/bin/archport plot bundled norms --output docs/pictures/norms.png --force
	$(VENV)/bin/archport page gpt2 gpt-neox --output docs/pictures/page.html --force
	$(VENV)/bin/python -m tools.picture_page docs/pictures/page.html docs/pictures/page.png c_attn
	rm docs/pictures/page.html

benchmark: $(VENV)/ready
	$(VENV)/bin/python benchmarks/load.py

$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install -q -c constraints.txt -e '.[dev]'
	touch $@

$(COMPAT)/ready: pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv $(COMPAT)
	$(COMPAT)/bin/python -m pip install -q -c constraints.txt -e '.[dev]' '$(OLDEST)'
	touch $@

$(PEERS)/ready: pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install -q -c constraints.txt -e '.[dev]' 'transformer_lens<4'  # 4 has no model of its own
	touch $@

clean:
	rm -rf $(VENV) $(COMPAT) $(PEERS)
