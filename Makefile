# Every target sets up what it needs; a second run starts at once.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/ready

# where it is set, every process would compile torch's files again, which takes longer than most tests
unexport PYTHONDONTWRITEBYTECODE

.PHONY: setup demo test lint bench
.SUFFIXES:

setup: $(READY)

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "error: expected Python 3.11 or later, got '$(PYTHON)' = $$($(PYTHON) --version 2>&1); name another: make PYTHON=python3.11" >&2; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "error: $(PYTHON) cannot make virtual environments; install its venv module (Debian, Ubuntu: apt-get install python3-venv)" >&2; exit 2; }
	@echo "setting up .venv (about 6 GB, one to three minutes)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@{ $(BIN)/python -m pip install --quiet --quiet --disable-pip-version-check uv==0.13.9 \
	  && $(BIN)/uv pip install --quiet --python $(BIN)/python --requirements requirements.lock \
	  && $(BIN)/uv pip install --quiet --python $(BIN)/python --python-version 3.10 --no-deps sal-detectron2==0.7.2 \
	  && $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .; } 2>.setup.log \
	  || { echo "error: the packages of requirements.lock could not be installed; is the network reachable? The reason: $$(tail -n 1 .setup.log) (all of it: .setup.log)" >&2; exit 2; }
	@rm -f .setup.log && touch $@

# The whole chain on the sample: pretraining without and with guidance; linear evaluation beside raw pixels and a random
# initialisation; detector and segmentor on both checkpoints; the report. What is finished is kept, what was interrupted is
# resumed. The four trainings run two at a time, with a thread each.
CHECKPOINTS := $(foreach name,simsiam simsiam-guided,runs/demo/$(name)/checkpoint.safetensors)
TRAININGS := $(foreach name,simsiam simsiam-guided,runs/demo/detection-$(name) runs/demo/segmentation-$(name))

demo: $(CHECKPOINTS)
	$(BIN)/python transfer/linear.py --dataset sample digits --pixels --ckpt random:resnet18 $^ --output runs/demo
	@echo "detector and segmentor on both checkpoints, two trainings at a time, in four to six minutes"
	@$(MAKE) --no-print-directory --jobs 2 $(TRAININGS:%=%/results.jsonl)
	$(BIN)/python transfer/report.py runs/demo --compare $$(sha256sum $^ | cut -c 1-12) --output runs/demo/report

runs/demo/simsiam/checkpoint.safetensors: | $(READY)
	$(BIN)/python pretrain/run.py objective.guidance=symmetric monitor.gradients=true --output $(@D) $(if $(wildcard $(@D)/state.pt),--resume)

runs/demo/simsiam-guided/checkpoint.safetensors: | $(READY)
	$(BIN)/python pretrain/run.py objective.guidance=guided monitor.gradients=true --output $(@D) $(if $(wildcard $(@D)/state.pt),--resume)

runs/demo/detection-%/results.jsonl: runs/demo/%/checkpoint.safetensors
	@echo "detection of $*: what it says goes to $(@D).log"
	@$(call train,detection)

runs/demo/segmentation-%/results.jsonl: runs/demo/%/checkpoint.safetensors
	@echo "segmentation of $*: what it says goes to $(@D).log"
	@$(call train,segmentation)

train = OMP_NUM_THREADS=1 $(BIN)/python transfer/$(1).py --dataset sample --ckpt $< --output $(@D) \
	$(if $(wildcard $(@D)/last_checkpoint),--resume) > $(@D).log 2>&1 || { tail -n 3 $(@D).log >&2; exit 2; }

test: $(READY)
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)
	@for script in tests/benchmarks/*.py; do echo "$$script"; $(BIN)/python $$script || exit 1; done
