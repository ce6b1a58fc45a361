# Two commands do everything: `make serve` and `make test`. Both set up what they need and re-run cheaply.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: serve test lint bench fuzz clean

serve: .venv/serve.ready
	$(BIN)/pafu serve

test: .venv/test.ready
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/pytest -q

bench: .venv/serve.ready
	$(BIN)/pafu bench

# Ten minutes against a server of its own; python tests/server/socket_fuzz.py --help has more.
fuzz: .venv/test.ready
	$(BIN)/python tests/server/socket_fuzz.py

# A marker per environment: it is as old as the last pyproject.toml that was installed.
.venv/serve.ready: pyproject.toml clients/python/pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Pafu needs Python 3.11 or newer; set PYTHON=python3.x")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e clients/python -e .
	touch $@

.venv/test.ready: .venv/serve.ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e clients/python -e ".[dev]"
	touch $@

clean:
	rm -rf .venv
