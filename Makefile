# To begin with:
#   make run            try the function, with a DynamoDB in memory and a page
#   make test           run the tests
#
# More checks. Each installs what it needs into .tools, once:
#   make tools          install cargo-lambda, which run and test use
#   make validate       check template.yaml and the templates in docs/
#   make audit          check dependencies (licences, advisories, unused) and spelling
#   make test-clients   run Ory's SDKs, Schemathesis and a browser against it
#   make test-snippets  run the code in docs/ (as root: installs the interpreters)
#   make deploy-test    build with the SAM CLI, deploy to an emulated cloud, call it
#   make smoke-test STACK=name   try a deployed stack
#   make simulation     a hundred thousand trials under a simulated clock, network and database
#   make mutants        put mistakes into src/, and see that a test finds each
#   make fuzz           feed the function mutated events for a minute
#   make bench          measure, and write docs/performance.md
#   make screenshot     take the picture in the README again
#
# Options:
#   run            FUNCTION_PORT=9001 DYNAMODB_PORT=8001 PAGE_PORT=3001  LISTEN=0.0.0.0 (in a container)
#   test-clients   CLIENTS=browser  CHROMIUM=path
#   simulation     TRIALS=1 TRIALS_SEED=42 (one trial again)
#   mutants        MUTANTS="--file src/http/origin.rs"  MUTANTS="--in-diff changes.diff"
#   fuzz           FUZZ_SECONDS=600
#   bench          BENCH=quick  BENCH=instructions  COMPARE="path path" (other builds of the function)

# renovate: pypi cargo-lambda
CARGO_LAMBDA := 1.9.2
# renovate: crate cargo-fuzz
CARGO_FUZZ := 0.13.2
# renovate: crate cargo-mutants
CARGO_MUTANTS := 27.1.0
# renovate: crate cargo-deny
CARGO_DENY := 0.20.2
# renovate: crate cargo-machete
CARGO_MACHETE := 0.9.2
# renovate: pypi typos
TYPOS := 1.52.0
# renovate: pypi aws-sam-cli
SAM := 1.170.0
# renovate: pypi ziglang
ZIG := 0.15.2
# renovate: pypi ministack
MINISTACK := 1.5.33
# renovate: pypi boto3
BOTO3 := 1.44.5
# renovate: npm @aws-sdk/lib-dynamodb
AWS_SDK_JS := 3.1162.0

# An installed tool is a file .tools/PACKAGE/VERSION.
CARGO_LAMBDA_STAMP := .tools/cargo-lambda/$(CARGO_LAMBDA)
FUZZ_STAMP := .tools/cargo-fuzz/$(CARGO_FUZZ)
MUTANTS_STAMP := .tools/cargo-mutants/$(CARGO_MUTANTS)
DENY_STAMP := .tools/cargo-deny/$(CARGO_DENY)
MACHETE_STAMP := .tools/cargo-machete/$(CARGO_MACHETE)
TYPOS_STAMP := .tools/typos/$(TYPOS)
SAM_STAMP := .tools/aws-sam-cli/$(SAM)
ZIG_STAMP := .tools/ziglang/$(ZIG)
MINISTACK_STAMP := .tools/ministack/$(MINISTACK)
BOTO3_STAMP := .tools/boto3/$(BOTO3)
AWS_SDK_JS_STAMP := .tools/aws-sdk-js/$(AWS_SDK_JS)
# The versions of the clients are in requirements.txt and package-lock.json.
PYTHON_CLIENTS_STAMP := .tools/clients/python/installed
NODE_CLIENTS_STAMP := .tools/clients/node/installed

FUZZ_SECONDS := 60
# The suites of tests/clients/run.py to run. Empty runs all.
CLIENTS :=

# --target conflicts with the user and virtualenv settings that pip may be configured with.
PIP_INSTALL := PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_ROOT_USER_ACTION=ignore python3 -m pip install \
	--quiet --disable-pip-version-check --no-warn-conflicts
NPM_INSTALL := npm install --silent --no-save --no-audit --no-fund
SAM_PYTHON := SAM_CLI_TELEMETRY=0 AWS_DEFAULT_REGION=eu-central-1 PYTHONPATH=.tools/aws-sam-cli python3
SAM_CLI := $(SAM_PYTHON) -m samcli

export PATH := $(CURDIR)/.tools/cargo-lambda/bin:$(PATH)

.PHONY: help run test simulation mutants tools test-clients test-snippets deploy-test smoke-test validate audit fuzz bench screenshot \
	aws-sdk-js rust python

help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

run: tools
	@echo 'Building the local DynamoDB and the libraries of the function: the first time, this takes a minute or two.'
	@cargo run --locked --example local

# Without the examples, which `make run` and the tests build when they use them.
test: tools
	cargo test --locked --lib --test '*'

# With so many trials, a fault that never met a step fails the run.
simulation: TRIALS ?= 100000
simulation: rust
	TRIALS=$(TRIALS) cargo test --locked --profile simulation --test simulation -- --nocapture

# In a copy of the project, with the libraries that `make simulation` has built. .cargo/mutants.toml says which mistakes are left
# out, and why. With exit code 3 all were found, some by a test that did not end.
mutants: rust $(MUTANTS_STAMP)
	@mkdir -p target
	TRIALS=400 CARGO_TARGET_DIR=$(CURDIR)/target \
		.tools/cargo-mutants/bin/cargo-mutants mutants --output target/mutants $(MUTANTS) || [ $$? -eq 3 ]

tools: rust $(CARGO_LAMBDA_STAMP)

# Each of the three finds errors that the others do not. cfn-lint finds undefined references only in the template that
# the SAM transform has produced.
validate: $(SAM_STAMP)
	$(SAM_CLI) validate --lint
	$(SAM_CLI) validate
	$(SAM_CLI) validate --lint --template docs/code/consumer/template.yaml
	$(SAM_CLI) validate --template docs/code/consumer/template.yaml
	$(SAM_PYTHON) .ci/validate-template

# The advisory database comes from GitHub. The other checks run without it.
audit: rust $(DENY_STAMP) $(MACHETE_STAMP) $(TYPOS_STAMP)
	.tools/cargo-deny/bin/cargo-deny --locked check licenses bans sources
	@if .tools/cargo-deny/bin/cargo-deny --locked fetch db; then \
		echo .tools/cargo-deny/bin/cargo-deny --locked check advisories; \
		.tools/cargo-deny/bin/cargo-deny --locked check advisories; \
	else \
		echo 'NOT CHECKED: security advisories, since their database could not be fetched (see above).'; \
	fi
	.tools/cargo-machete/bin/cargo-machete
	.tools/typos/bin/typos --hidden --exclude .git

test-clients: tools $(PYTHON_CLIENTS_STAMP) $(NODE_CLIENTS_STAMP)
	@chromium=$${CHROMIUM:-$$(tests/clients/need chromium chromium-browser google-chrome)} && \
		CHROMIUM=$$chromium python3 tests/clients/run.py $(CLIENTS)

screenshot:
	@$(MAKE) --no-print-directory test-clients CLIENTS=browser SCREENSHOT=docs/screenshot.png

# The script calls `make aws-sdk-js` once Node.js is installed.
test-snippets: tools $(BOTO3_STAMP)
	tests/snippets/run

aws-sdk-js: $(AWS_SDK_JS_STAMP)

deploy-test: tools $(SAM_STAMP) $(ZIG_STAMP) $(MINISTACK_STAMP)
	@PYTHONPATH=$(CURDIR)/.tools/aws-sam-cli:$(CURDIR)/.tools/ministack:$(CURDIR)/.tools/ziglang \
		python3 -u tests/deploy/main.py

# boto3 comes with the SAM CLI.
smoke-test: $(SAM_STAMP)
	@[ -n '$(STACK)' ] || { echo 'Which stack? make smoke-test STACK=name'; exit 1; }
	@PYTHONPATH=.tools/aws-sam-cli python3 tests/deploy/smoke.py '$(STACK)' $(URL)

# Without a sanitizer, which would find only errors that safe Rust excludes. New inputs go to target/fuzz/corpus.
fuzz: rust tests/fuzz/Cargo.lock
	@if rustup run nightly cargo --version >/dev/null 2>&1 && $(MAKE) --no-print-directory $(FUZZ_STAMP); then \
		echo 'Building the fuzzer: the first time, this takes some minutes.'; \
		mkdir -p target/fuzz/corpus && \
		rustup run nightly .tools/cargo-fuzz/bin/cargo-fuzz run --fuzz-dir tests/fuzz --target-dir target/fuzz \
			--sanitizer none event target/fuzz/corpus tests/fuzz/corpus/event events -- \
			-max_len=4096 -max_total_time=$(FUZZ_SECONDS) -print_funcs=0; \
	else \
		echo 'NOT FUZZED: that takes nightly Rust (rustup toolchain install nightly) and cargo-fuzz.'; \
		echo 'Replaying the seeds and some thousand random events instead.'; \
		cargo test --locked hostile; \
	fi

# The fuzzer uses the versions of the dependencies that are deployed. Cargo adds the fuzzer's own.
tests/fuzz/Cargo.lock: Cargo.lock
	@cp $< $@

# Three packages, so that none is built with the features of another. Without npm, Node is not measured. Without valgrind,
# instructions are not counted; that takes a build with symbols.
bench: rust $(BOTO3_STAMP) $(if $(shell command -v npm),$(AWS_SDK_JS_STAMP))
	@echo 'Building the function, the baselines and the bench: the first time, this takes some minutes.'
	cargo build --locked --release
	cargo build --locked --release --manifest-path tests/bench/baselines/Cargo.toml --target-dir target/bench
	cargo build --locked --release --manifest-path tests/bench/Cargo.toml --target-dir target/bench
	$(if $(shell command -v valgrind),CARGO_PROFILE_RELEASE_STRIP=false cargo build --locked --release --target-dir target/callgrind)
	@target/bench/release/bench $(BENCH:%=--%) $(COMPARE)

# Installing: one rule for Python packages, one for Rust's, and three with files or package names of their own.

PIP_STAMPS := $(CARGO_LAMBDA_STAMP) $(TYPOS_STAMP) $(SAM_STAMP) $(ZIG_STAMP) $(MINISTACK_STAMP) $(BOTO3_STAMP)
# cargo-lambda depends on zig, but uses it only to build for Lambda.
$(CARGO_LAMBDA_STAMP): PIP_OPTIONS := --no-deps
$(CARGO_LAMBDA_STAMP): SIZE := 14 MB
$(TYPOS_STAMP): SIZE := 8 MB
$(SAM_STAMP): SIZE := 320 MB
$(ZIG_STAMP): SIZE := 380 MB
$(MINISTACK_STAMP): SIZE := 65 MB
$(BOTO3_STAMP): SIZE := 30 MB

$(PIP_STAMPS): .tools/%: | python
	@echo 'Installing $(*D) $(*F) into .tools ($(SIZE), once).'
	@rm -rf $(@D)
	@$(PIP_INSTALL) $(PIP_OPTIONS) --target $(@D) $(*D)==$(*F)
	@touch $@

# These build in half the time without optimization, and are fast enough.
$(DENY_STAMP) $(MACHETE_STAMP) $(MUTANTS_STAMP): CARGO_OPTIONS := --debug

$(DENY_STAMP) $(MACHETE_STAMP) $(MUTANTS_STAMP) $(FUZZ_STAMP): .tools/%: | rust
	@echo 'Building $(*D) $(*F) into .tools (once; a minute).'
	@rm -rf $(@D)
	@CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked $(CARGO_OPTIONS) --root $(@D) $(*D)@$(*F)
	@touch $@

$(AWS_SDK_JS_STAMP):
	@echo 'Installing the AWS SDK for JavaScript $(AWS_SDK_JS) into .tools (40 MB, once).'
	@rm -rf $(@D)
	@$(NPM_INSTALL) --prefix $(@D) @aws-sdk/client-dynamodb@$(AWS_SDK_JS) @aws-sdk/lib-dynamodb@$(AWS_SDK_JS)
	@touch $@

$(PYTHON_CLIENTS_STAMP): tests/clients/python/requirements.txt | python
	@echo 'Installing the Python SDKs and Schemathesis into .tools (100 MB, once).'
	@rm -rf $(@D)
	@$(PIP_INSTALL) --target $(@D) --requirement $<
	@touch $@

$(NODE_CLIENTS_STAMP): tests/clients/node/package-lock.json
	@echo 'Installing the SDKs for Node.js and Playwright into .tools (50 MB, once).'
	@tests/clients/need npm >/dev/null
	@rm -rf $(@D) && mkdir -p $(@D) && cp tests/clients/node/package.json $< $(@D)
	@npm ci --prefix $(@D) --silent --ignore-scripts --no-audit --no-fund
	@touch $@

rust:
	@command -v cargo >/dev/null || { echo 'Rust is missing: no cargo on the PATH. See https://rustup.rs'; exit 1; }

python:
	@command -v python3 >/dev/null || \
		{ echo 'Python is missing: no python3 on the PATH. It installs the tools.'; exit 1; }
	@python3 -m pip --version >/dev/null 2>&1 || \
		{ echo 'pip is missing (Debian, Ubuntu: apt install python3-pip). It installs the tools.'; exit 1; }
