# Two commands on a fresh machine: make demo, make test.
PYTHON ?= python3
VENV := .venv
# The oldest transformers archport accepts, as pyproject.toml says, and the newest there is, each with its own libraries.
OLDEST := .venv-oldest
NEWEST := .venv-newest
# Other libraries whose models are verified: an environment each, for their pins exclude each other.
PEERS := .venv-peers
PEER_NAMES := curated_transformers litgpt torchtune transformer_lens x_transformers
COMPAT_TESTS := tests/test_parity.py tests/test_files.py tests/test_table.py tests/test_config.py tests/test_verify.py
# Fuzzed inputs for each kind of file.
RUNS := 20000
# Proposals at a time.
JOBS := 1

.PHONY: demo test families lint compat compat-oldest compat-newest peers fuzz records check-records proposals docs benchmark clean

demo: $(VENV)/ready
	$(VENV)/bin/archport load
	$(VENV)/bin/archport verify

# Every architecture in every test that takes one; make test runs a sample.
families: $(VENV)/ready
	$(VENV)/bin/python -m pytest -q -n 2 -m "families and not peers and not network"

test: $(VENV)/ready
	$(VENV)/bin/python -m pytest -q -n 2

lint: $(VENV)/ready
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy --strict src
	$(VENV)/bin/lint-imports

# Both run, whatever the first says.
compat:
	@failed=; for which in oldest newest; do \
	  $(MAKE) --no-print-directory compat-$$which || failed="$$failed $$which"; \
	done; \
	if [ -n "$$failed" ]; then echo "make compat: failed with these releases of transformers:$$failed" >&2; exit 1; fi

compat-oldest: $(OLDEST)/ready
	@printf '\n== The oldest: '; $(OLDEST)/bin/python -m pip freeze | grep '^transformers=='
	$(OLDEST)/bin/python -m pytest -q -n 2 $(COMPAT_TESTS)

# Each time anew: what was the newest yesterday may not be today.
compat-newest: $(NEWEST)/bin/python
	sed '/^# From here on/,$$d' constraints.txt > $(NEWEST)/constraints.txt
	$(NEWEST)/bin/python -m pip install -q --upgrade --no-deps transformers
	$(NEWEST)/bin/python -m pip freeze | grep '^transformers==' >> $(NEWEST)/constraints.txt
	$(NEWEST)/bin/python -m pip install -q --upgrade --upgrade-strategy eager -c $(NEWEST)/constraints.txt -e '.[dev]'
	@printf '\n== The newest: '; $(NEWEST)/bin/python -m pip freeze | grep '^transformers=='
	$(NEWEST)/bin/python -m pytest -q -n 2 $(COMPAT_TESTS)

# The same checkpoints for all, as files; what comes out is the table in docs/parity.md. All run, whatever one says.
peers: $(VENV)/ready $(PEER_NAMES:%=$(PEERS)/%/ready)
	rm -rf $(PEERS)/checkpoints $(PEERS)/results
	HF_HUB_OFFLINE=1 $(VENV)/bin/python -m tests.peers.checkpoints $(PEERS)/checkpoints
	@failed=; for name in $(PEER_NAMES); do \
	  echo "== $$name"; \
	  HF_HUB_OFFLINE=1 $(PEERS)/$$name/bin/python -m pytest -q -m peers tests/peers/test_$$name*.py || failed="$$failed $$name"; \
	done; \
	if [ -n "$$failed" ]; then echo "make peers: failed with$$failed" >&2; exit 1; fi
	HF_HUB_OFFLINE=1 $(PEERS)/transformer_lens/bin/python -m pytest -q tests/test_with_others.py tests/test_docs.py -k "lm_eval or with-others"
	$(VENV)/bin/python tools/list_peers.py $(PEERS)/results

fuzz: $(VENV)/ready
	$(VENV)/bin/python -m pip install -q -c constraints.txt -e '.[fuzz]'
	$(VENV)/bin/python -m tests.fuzz --runs $(RUNS)

# What verify says of every architecture, as files, and whether it says so still.
records: $(VENV)/ready
	$(VENV)/bin/python -m tools.write_records

check-records: $(VENV)/ready
	$(VENV)/bin/archport record check docs/records/*.json --again

# Each causal decoder that transformers has, proposed: hours, and again the same command goes on where it was stopped.
proposals: $(VENV)/ready
	$(VENV)/bin/python tools/propose_all.py --jobs $(JOBS)

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

$(OLDEST)/ready: pyproject.toml constraints.txt Makefile
	$(PYTHON) -m venv $(OLDEST)
	grep -vE '^(transformers|huggingface_hub|tokenizers)==' constraints.txt > $(OLDEST)/constraints.txt
	$(OLDEST)/bin/python -m pip install -q -c $(OLDEST)/constraints.txt -e '.[dev]' 'transformers==4.51.*'
	touch $@

$(NEWEST)/bin/python:
	$(PYTHON) -m venv $(NEWEST)

$(PEERS)/%/ready: tests/peers/%.txt pyproject.toml constraints.txt
	$(PYTHON) -m venv $(PEERS)/$*
	sed '/^# From here on/,$$d' constraints.txt > $(PEERS)/$*/constraints.txt
	$(PEERS)/$*/bin/python -m pip install -q -c $(PEERS)/$*/constraints.txt -e . pytest -r $<
	touch $@

clean:
	rm -rf $(VENV) $(OLDEST) $(NEWEST) $(PEERS)
