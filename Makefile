# Two commands do everything: `make serve` and `make test`. Both set up what they need and re-run cheaply.
# CONTRIBUTING.md says when to use the others. `make CONSTRAINTS= serve` takes the newest versions of all dependencies.
# `make TORCH_INDEX=https://download.pytorch.org/whl/cpu serve`: torch's CPU build, for Linux without a GPU.
PYTHON ?= python3
CONSTRAINTS ?= constraints.txt
TORCH_INDEX ?=
BIN := .venv/bin
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(addprefix -c ,$(CONSTRAINTS)) \
	$(addprefix --extra-index-url ,$(TORCH_INDEX))
TOOLS := .venv/tools

.PHONY: serve quick test proofs lint page docs bench fuzz constraints licences sbom wheels clean

serve: .venv/serve.ready
	@$(BIN)/pafu serve

# under a minute: what neither trains a model nor starts a server
quick: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 4 -m quick

# all but the proofs; what watches a page in a browser runs alone, behind the rest. Four processes with two threads each would wait for
# each other on two cores.
test: lint page docs
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 4 -m "not serial and not proof"
	$(BIN)/pytest -q -m "serial and not proof"

# the slow rest: whole evaluations, every policy at full size, clusters, groups, kills, installed wheels, further browser tests
proofs: .venv/test.ready
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n 4 -m "proof and not serial"
	$(BIN)/pytest -q -m "proof and serial"

lint: .venv/test.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/lint-imports
	$(BIN)/mypy

# types and lint of the page's scripts; the tools are npm's, the page itself needs none
page:
	@if node -e 'process.exit(+(parseInt(process.versions.node) < 18))' 2>/dev/null && command -v npm >/dev/null; \
	then cd tests/web && npm ci --silent && npm run --silent check; \
	elif [ "$(PAFU_TEST_REQUIRE_NODE)" = 1 ]; then echo "node 18 and npm are needed to check clients/web and clients/js" >&2; exit 1; \
	else echo "no node 18 with npm: clients/web and clients/js are not checked"; fi

# The documentation as a site in site/, made without a network; a link that leads nowhere fails it.
docs: .venv/test.ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

bench: .venv/serve.ready
	$(BIN)/pafu bench

# Ten minutes against a server of its own; python tests/server/socket_fuzz.py --help has more.
fuzz: .venv/test.ready
	$(BIN)/python tests/server/socket_fuzz.py

# The newest versions that go together, for CI and the image; run the tests before you commit them.
constraints: .venv/serve.ready
	$(BIN)/python -m pip install --quiet --dry-run --ignore-installed --report .venv/report.json -e clients/python -e ".[dev]"
	$(BIN)/python deploy/constraints.py < .venv/report.json > .venv/constraints.txt
	mv .venv/constraints.txt constraints.txt

# Every package of the environment, and its licence.
licences: .venv/serve.ready $(TOOLS)
	$(TOOLS)/bin/pip-licenses --python=$(BIN)/python --from=mixed --with-urls

# What is in the environment, for those who must know: CycloneDX, in dist/.
sbom: .venv/serve.ready $(TOOLS)
	mkdir -p dist
	$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --of JSON -o dist/sbom.json $(BIN)/python

wheels: .venv/serve.ready
	$(BIN)/python -m pip wheel --quiet --no-deps -w dist . clients/python

$(TOOLS):
	$(PYTHON) -m venv $@
	$@/bin/python -m pip install --quiet --disable-pip-version-check "pip-licenses>=5.5,<6" "cyclonedx-bom>=7.5,<8"

# A marker per environment: it is as old as the last pyproject.toml that was installed.
.venv/serve.ready: pyproject.toml clients/python/pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Pafu needs Python 3.11 or newer; set PYTHON=python3.x")'
	@test -x $(BIN)/python || { echo "making an environment in .venv"; $(PYTHON) -m venv .venv; }
	@echo "installing torch and what else Pafu needs into .venv; the first time it takes some minutes"
	$(INSTALL) -e clients/python -e .
	@touch $@

.venv/test.ready: .venv/serve.ready
	@echo "installing what the tests need into .venv"
	$(INSTALL) -e clients/python -e ".[dev]"
	@touch $@

clean:
	rm -rf .venv dist
