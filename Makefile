# Every target sets up what it needs. A Linux machine without a GPU gets the small build of torch with
#   make demo TORCH_INDEX=https://download.pytorch.org/whl/cpu
VENV ?= .venv
PYTHON ?= python3
TORCH_INDEX ?=
OUT ?= out
DEMO := --bbox -75.71,37.60,-75.53,37.75 --dates 2015/2018 --catalog demo
FOREST := --bbox 22.147,45.201,22.157,45.209 --catalog demo
WEST := --bbox -75.71,37.60,-75.62,37.75 --dates 2015/2018 --catalog demo
CORNER := --bbox -75.64,37.63,-75.58,37.68 --dates 2015/2018 --catalog demo
BIN := $(VENV)/bin
READY := $(VENV)/.ready
TESTABLE := $(VENV)/.ready-test
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check

.PHONY: demo test lint docs bench clean

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(PIP) $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) "torch>=2.4" "torchvision>=0.19"
	$(PIP) --editable ".[dask]"
	touch $@

$(TESTABLE): $(READY)
	$(PIP) --editable ".[test,dask]"
	touch $@

demo: $(READY)  ## Map the embedded scene of the Virginia coast; then fit probes there, map patches, rank chips; a change; a page of all.
	$(BIN)/geoelle map $(DEMO) -o $(OUT) --overwrite
	$(BIN)/geoelle embed $(WEST) --stride 32 --loss -o $(OUT)/run --overwrite
	$(BIN)/geoelle fit $(OUT)/run --for -75.71,37.60,-75.53,37.75 --block 2km -o $(OUT)/probe.safetensors \
		--report $(OUT)/fit --overwrite
	$(BIN)/python scripts/demo_pairs.py $(OUT)/run -o $(OUT)/pairs.npz --overwrite
	$(BIN)/geoelle fit --pairs $(OUT)/pairs.npz --lon-column lon --lat-column lat --block 2km --target "pixel loss of nano" \
		--features log_gray_var --features high_frequency_share --features ndvi_mean \
		-o $(OUT)/pairs.safetensors --report $(OUT)/pairs --overwrite
	$(BIN)/geoelle map $(CORNER) --dense -o $(OUT)/dense --overwrite
	$(BIN)/geoelle rank $(OUT)/run --probe $(OUT)/probe.safetensors --above 95 -o $(OUT)/rank --overwrite
	$(BIN)/geoelle delta $(FOREST) --before 2019-08 --after 2020-08 --later 2020-09 --history 4 --dense -o $(OUT)/delta --overwrite
	$(BIN)/geoelle series --at 22.1553,45.2032 --at 22.1520,45.2080 --dates 2015/2020 --dense --catalog demo -o $(OUT)/series --overwrite
	$(BIN)/python scripts/demo_page.py $(OUT)
	@echo "Open $(OUT)/index.html"

test: $(TESTABLE)  ## Run every test; needs no network.
	$(BIN)/python -m pytest -q -n 2 --dist loadfile

lint: $(TESTABLE)
	$(BIN)/ruff check src tests scripts benchmarks
	$(BIN)/python scripts/make_docs.py --check

docs: $(TESTABLE)  ## Write the generated pages: docs/cli.md, docs/models.md.
	$(BIN)/python scripts/make_docs.py

bench: $(TESTABLE)
	$(BIN)/python benchmarks/bench.py

clean:
	rm -rf $(VENV) $(OUT)
