# Every target makes the environment it needs in $(VENV) first; once made, it is used at once until setup.cfg,
# pyproject.toml or constraints.txt changes. PyTorch goes in first and alone, so that nothing pulls in another build.

PYTHON ?= python3
VENV ?= .venv
# Options for the installation of PyTorch only, for instance an --index-url with CPU builds.
TORCH_PIP_ARGS ?=
# Options for the job itself, for instance: make test ARGS="-k tokenizer -x"
ARGS ?=

# Libraries of which the tests use single files, so without the hundred others that they require
BARE-test := lmms-eval ms-vlmeval
# Libraries that transformers and PEFT would import wherever they found them: in a folder apart
APART-test := bitsandbytes timm torchao

# The oldest release that setup.cfg declares, and what is tried with it: what transformers changes from one to the next
OLDEST-transformers := 5.23.0
OLDEST_VENV := $(VENV)-oldest
CONTRACTS := $(addprefix tests/,test_versions.py test_saved_code.py state/test_state.py modeling/test_cache_names.py \
	modeling/test_onnx_export.py modeling/test_text_contracts.py modeling/test_text_generation.py \
	processing/test_processor.py training/test_trainer.py)

RUN := $(VENV)/bin/python
PIP := $(RUN) -m pip --disable-pip-version-check
TINY_WORLD := examples/tiny_world
TINY_WORLD_DATA := build/tiny_world/data
TINY_WORLD_RUN := build/tiny_world/run

.DEFAULT_GOAL := help
.PHONY: help demo test test-oldest lint docs wheel tiny-world env-test

help:
	@echo "make demo        show the shipped example model pictures and clips, and what it answers"
	@echo "make test        run the tests"
	@echo "make test-oldest run some of them with the oldest transformers that the package declares"
	@echo "make lint        run ruff and the model linter"
	@echo "make docs        build the documentation as a site in build/site; a broken link fails"
	@echo "make wheel       build a wheel into dist, with the CPU kernels compiled for this processor"
	@echo "make tiny-world  make the example's data and train its model from nothing"
	@echo
	@echo "PYTHON=$(PYTHON)  the interpreter that $(VENV) is made with"
	@echo "ARGS=...         options for the job: make test ARGS=\"-k tokenizer -x\","
	@echo "                 make demo ARGS=\"'is there a ring?' --image photo.png\""
	@echo "TORCH_PIP_ARGS=...  options for the installation of PyTorch"

demo: $(VENV)/.installed-demo
	$(RUN) $(TINY_WORLD)/demo.py $(ARGS)

test: $(VENV)/.installed-test
	$(RUN) -m pytest $(ARGS)

test-oldest: $(OLDEST_VENV)/.installed
	$(OLDEST_VENV)/bin/python -c 'import transformers; print("transformers", transformers.__version__)'
	$(OLDEST_VENV)/bin/python -m pytest $(CONTRACTS) $(ARGS)

lint: $(VENV)/.installed-test
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .
	$(RUN) -m mlinter modeling_rwkv7_world configuration processing

# A wheel of what git tracks, with the CPU kernels built for this torch and this processor
wheel: $(VENV)/.installed-fast
	rm -rf build/wheel
	git checkout-index --all --prefix=build/wheel/rwkv7_world/
	cd build/wheel && TORCH_EXTENSIONS_DIR=$(CURDIR)/build/wheel/kernels $(abspath $(RUN)) -m rwkv7_world.kernels.prebuild
	$(PIP) wheel --no-deps --wheel-dir dist build/wheel/rwkv7_world --config-settings=--build-option=--plat-name=$$($(RUN) -c \
		'import sysconfig; print(sysconfig.get_platform().replace("-", "_").replace(".", "_"))')

docs: $(VENV)/.installed-docs
	NO_MKDOCS_2_WARNING=1 $(RUN) -m mkdocs build --strict $(ARGS)

tiny-world: $(VENV)/.installed-train
	rm -rf $(TINY_WORLD_DATA) $(TINY_WORLD_RUN)
	$(RUN) $(TINY_WORLD)/make_data.py $(TINY_WORLD_DATA)
	$(RUN) -m rwkv7_world.cli.main train $(TINY_WORLD)/recipe.yaml $(ARGS)
	cp $(addprefix $(TINY_WORLD_RUN)/,*.json *.jinja *.safetensors rwkv_vocab_*.txt) $(TINY_WORLD)/checkpoint
	$(RUN) $(TINY_WORLD)/make_samples.py $(TINY_WORLD)/samples
	$(RUN) $(TINY_WORLD)/score.py $(TINY_WORLD)/checkpoint --json $(TINY_WORLD)/scores.json --results $(TINY_WORLD)/checkpoint
	$(RUN) $(TINY_WORLD)/write_card.py $(TINY_WORLD)/checkpoint

env-test: $(VENV)/.installed-test

# A python3 without `ensurepip` (Debian's, without python3-venv) still has pip, which can install itself elsewhere.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "transformers needs Python 3.11 or newer: \
	make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv --clear $(VENV) || { $(PYTHON) -m venv --clear --without-pip $(VENV) && \
		$(PYTHON) -m pip --python $(RUN) install pip; }
	@touch $@

$(VENV)/.torch: constraints.txt | $(VENV)/.created
	$(PIP) install -c constraints.txt $(TORCH_PIP_ARGS) torch
	@touch $@

$(VENV)/.installed-%: $(VENV)/.torch setup.cfg pyproject.toml
	$(PIP) install -c constraints.txt -e ".[$*]"
	$(if $(BARE-$*),$(PIP) install --no-deps -c constraints.txt $(BARE-$*))
	$(if $(APART-$*),$(PIP) install --no-deps -c constraints.txt --target $(VENV)/apart --upgrade $(APART-$*))
	@touch $@

# Everything but transformers comes from $(VENV), which stands behind this environment on the path
$(OLDEST_VENV)/.installed: $(VENV)/.installed-test
	$(RUN) -m venv --clear --without-pip $(OLDEST_VENV)
	packages=$$($(OLDEST_VENV)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))') && \
		$(RUN) -c 'import sysconfig; print("import site; site.addsitedir(%r)" % sysconfig.get_path("purelib"))' \
			> $$packages/behind.pth && \
		$(PIP) install --no-deps --target $$packages transformers==$(OLDEST-transformers)
	@touch $@
