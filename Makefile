# Every target sets itself up from a bare Python 3.11 or later.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/.installed
FASHION := /usr/share/datasets/fashion-mnist/train-images-idx3-ubyte.gz

.PHONY: demo test test-all check audit install browser clean

$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("bitsmith needs Python 3.11 or later; set PYTHON=...") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --constraint constraints.txt --editable '.[dev,ethos-u]'
	touch $@

install: $(INSTALLED)

# Search, training, export, verification and report on real data; the page is runs/demo/report.html.
demo: $(INSTALLED)
	@if [ ! -e $(FASHION) ] && [ "$$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then \
		(apt-get update -qq && apt-get install -y -qq dataset-fashion-mnist) >/dev/null 2>&1 \
		|| echo "The package dataset-fashion-mnist could not be installed."; \
	fi
	$(BIN)/bitsmith run recipes/demo.yaml --out runs/demo

# A browser for the tests of the report; without one they are skipped and say so.
browser:
	@if ! { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null \
		&& [ "$$(id -u)" = 0 ] && [ -e /etc/debian_version ]; then \
		(apt-get update -qq && apt-get install -y -qq chromium) >/dev/null 2>&1 \
		|| echo "The package chromium could not be installed; the tests of the report in a browser will be skipped."; \
	fi

# Format, lint, types, import rules, known dangers and tests with reduced counts.
check: $(INSTALLED) browser
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive src benchmarks
	$(BIN)/python -m pytest -n auto --dist loadfile

test: check

# The same tests with full counts.
test-all: $(INSTALLED) browser
	BITSMITH_TESTS=full $(BIN)/python -m pytest -n auto --dist loadfile --timeout 3600

# Known vulnerabilities of the pinned versions; asks pypi.org's database over the network, which check must not need.
audit: $(INSTALLED)
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/pip install --quiet pip-audit
	.venv/audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip --strict

clean:
	rm -rf .venv runs build dist
