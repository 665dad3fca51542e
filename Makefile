# What one can do here. Needs Python 3.11, pip, make and a C compiler; no GPU; no network but the package index.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# Written last by the set-up: an interrupted one starts again.
READY := $(VENV)/.ready

.PHONY: help setup demo test lint types unit coverage export-zoo build-zoo bench-eval bench-cpu bench-calibration bench-int8 \
	int8-methods check-demo sweep-sizes fuzz kill-test docs clean

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

setup: $(READY) ## .venv with everything, development tools included

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(READY) ## the whole way once, on data that it makes itself, in demo/
	$(BIN)/ffnet-deploy demo

test: lint $(READY) ## linter, type checker, tests
	$(MAKE) --jobs 2 types unit

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

# Without these, each large tensor is memory that the system hands out anew: a fifth of the tests' time.
unit: export MALLOC_MMAP_THRESHOLD_ = 1073741824
unit: export MALLOC_TRIM_THRESHOLD_ = 4294967296
unit: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

coverage: $(READY) ## which lines no test reaches (about twice as long as the tests)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile --cov --cov-report term-missing

export-zoo: $(READY) ## export and verify all 87 deployable models at their native size (about 70 minutes)
	$(BIN)/python scripts/export_zoo.py

build-zoo: $(READY) ## FP32, FP16 and INT8 TensorRT-RTX engines of all 87 models (some hours)
	$(BIN)/python scripts/build_zoo.py

bench-cpu: $(READY) ## latency on the CPU: ONNX Runtime against PyTorch, and its settings (about ten minutes, alone on the machine)
	$(BIN)/python scripts/bench_cpu.py

bench-eval: $(READY) ## evaluation against a serial loop and against inference alone, and its memory (about five minutes)
	$(BIN)/python scripts/bench_eval.py

bench-calibration: $(READY) ## memory of calibration: 8 and 64 images, and the largest model (about 20 minutes)
	$(BIN)/python scripts/bench_calibration.py

bench-int8: demo ## INT8 on this CPU: against FP32, PyTorch and OpenVINO, in turns
	$(BIN)/python scripts/bench_int8.py

int8-methods: demo ## what INT8 costs by method, on the demo's weights and two hostile copies (about half an hour)
	$(BIN)/python scripts/int8_methods.py

check-demo: demo ## what the demo's trained weights must show
	$(BIN)/python -m pytest -m slow -s tests/demo tests/evaluate

sweep-sizes: $(READY) ## graphs of any batch against PyTorch at ten odd sizes (about three minutes)
	$(BIN)/python -m pytest -m slow tests/graph/test_nearest.py

fuzz: $(READY) ## damaged files for every reader: the same result, or one line (about five minutes)
	PYTHONPATH=scripts:tests $(BIN)/python -m fuzz $(FUZZ)

kill-test: $(READY) ## kill every command that writes, 100 times in all, and run it again (about 15 minutes)
	PYTHONPATH=tests $(BIN)/python scripts/kill_test.py $(KILLS)

docs: $(READY) ## write the generated parts of README.md and docs/ again
	$(BIN)/python scripts/make_docs.py

clean: ## remove the environment, caches and the demo's workspace
	rm -rf $(VENV) demo .mypy_cache .ruff_cache .pytest_cache
