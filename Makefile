# Each target sets up what it needs: `make demo` and `make test` work on a fresh machine.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo
# The demo's recipes: small enough for a laptop, chosen on the validation split of the digits.
NETWORK := --dataset digits --lr 1e-3 --eval-images 250 backbone.width=256 backbone.depth=3
STUDY := $(NETWORK) --view rotation --batch-size 32 --epochs 40
LOCAL := $(NETWORK) --method vicreg --view two-shifts --batch-size 128 --epochs 60

# What `make check-install` tries; one that is not here is left out.
PYTHONS ?= python3.11 python3.12 python3.13

.PHONY: help demo test test-slow check-install lint format bench clean
help:
	@echo "make demo       train, evaluate, export, serve and report on embedded digits -> $(DEMO)/report.html"
	@echo "make test       the test suite"
	@echo "make test-slow  the checks that take minutes"
	@echo "make check-install  pip install . and ffserve predict in clean environments: $(PYTHONS)"
	@echo "make lint       ruff and mypy"
	@echo "make bench      measure training, serving and exports: about 50 minutes"

# The stamp is written last, so that an install that broke off is done again.
$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "ffstudy needs Python 3.11 to 3.13: name one with make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "python3-venv is missing: install it (Debian: apt install python3-venv)" >&2; exit 1; }
	@echo "installing into $(VENV): torch and what goes with it, about 6 GB and some minutes"
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	@touch $@

demo: $(VENV)/.installed
	@rm -rf $(DEMO)
	$(BIN)/fftrain pretrain --recipe ff $(STUDY) --out $(DEMO)/ff
	$(BIN)/fftrain pretrain --recipe bp $(STUDY) --out $(DEMO)/bp
	$(BIN)/fftrain pretrain $(LOCAL) --out $(DEMO)/vicreg
	@for run in ff bp vicreg; do echo "$(BIN)/fftrain evaluate $(DEMO)/$$run linear few-labels linear.epochs=50"; \
	  $(BIN)/fftrain evaluate $(DEMO)/$$run linear few-labels linear.epochs=50 || exit 1; done
	$(BIN)/ffexport $(DEMO)/vicreg --format all
	$(BIN)/ffexport $(DEMO)/vicreg --precision int8
	$(BIN)/ffexport $(DEMO)/ff --head readout
	$(BIN)/fftrain dump-images digits $(DEMO)/images
	$(BIN)/ffserve predict --model $(DEMO)/vicreg "$$(ls $(DEMO)/images/3/*.png | head -n 1)"
	@$(BIN)/ffserve predict --model $(DEMO)/vicreg --json "$$(ls $(DEMO)/images/3/*.png | head -n 1)" > $(DEMO)/prediction.json
	$(BIN)/ffserve compare --run $(DEMO)/vicreg --rounds 3 --chart $(DEMO)/compare.svg
	@$(BIN)/fftrain report $(DEMO)
	@echo "exports side by side: $(DEMO)/compare.svg; what answers what: $(DEMO)/prediction.json"

# Where a worker dies, the run ends and names its test: with another in its place, loadfile waits for ever.
test: $(VENV)/.installed
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --max-worker-restart=0

test-slow: $(VENV)/.installed
	$(BIN)/python -m pytest -m slow

check-install:
	@$(PYTHON) tests/clean_install.py $(PYTHONS)

lint: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Each says what it asks for; one that misses it does not keep the others from running.
bench: $(VENV)/.installed
	@missed=; \
	for program in step_speed epoch_speed view_speed probe_speed memory_depth local_cost data_cache ray_serve serve_speed deploy_speed serve_load; do \
	  echo "== benchmarks/$$program.py"; $(BIN)/python benchmarks/$$program.py || missed="$$missed $$program"; done; \
	  test -z "$$missed" || { echo "missed what it asks for:$$missed" >&2; exit 1; }

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
