# make run    try the function on this machine, with a DynamoDB in memory, the sessions of a few users, and a page
#             (other ports: make run FUNCTION_PORT=9001 DYNAMODB_PORT=8001 PAGE_PORT=3001)
# make test   run the tests
#
# Whatever else these take, they install into .tools, once:
# make tools          what both of the above take beside Rust: cargo-lambda
# make test-clients   run Ory's SDKs, Schemathesis and a browser against the function (one of them: CLIENTS=browser)
# make test-snippets  run the code in docs/, in every language whose interpreter is there (as root, they get installed)
# make deploy-test    build with the AWS SAM CLI for both architectures, deploy to an emulated cloud, and call it
# make smoke-test STACK=name  try a deployed stack, with sessions that it makes and deletes
# make validate       check template.yaml with the AWS SAM CLI and cfn-lint
# make audit          check the dependencies' licences, sources, bans and advisories, that each is used, and the spelling
# make fuzz           feed the function mutated events for a minute (longer: FUZZ_SECONDS=600), with nightly Rust
# make bench          measure the function next to hello world, boto3, Node and others, and write docs/performance.md
#                     (shorter: BENCH=quick; other builds of the function: COMPARE="path path"; only instructions, with
#                     valgrind: BENCH=instructions)
# make screenshot     take the picture of the page for the README again

# renovate: pypi cargo-lambda
CARGO_LAMBDA := 1.9.2
# renovate: crate cargo-fuzz
CARGO_FUZZ := 0.13.2
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

CARGO_LAMBDA_STAMP := .tools/cargo-lambda/$(CARGO_LAMBDA)
FUZZ_STAMP := .tools/cargo-fuzz/$(CARGO_FUZZ)
DENY_STAMP := .tools/cargo-deny/$(CARGO_DENY)
MACHETE_STAMP := .tools/cargo-machete/$(CARGO_MACHETE)
TYPOS_STAMP := .tools/typos/$(TYPOS)
SAM_STAMP := .tools/sam/$(SAM)
ZIG_STAMP := .tools/zig/$(ZIG)
MINISTACK_STAMP := .tools/ministack/$(MINISTACK)
BOTO3_STAMP := .tools/boto3/$(BOTO3)
AWS_SDK_JS_STAMP := .tools/aws-sdk-js/$(AWS_SDK_JS)
# The versions of these are in files of their tools' own.
PYTHON_CLIENTS_STAMP := .tools/clients/python/installed
NODE_CLIENTS_STAMP := .tools/clients/node/installed

FUZZ_SECONDS := 60
# Which of tests/clients/run.py's suites; all, if empty.
CLIENTS :=

# These settings of pip's do not go with --target, and a fresh machine may have them.
PIP_INSTALL := PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_ROOT_USER_ACTION=ignore python3 -m pip install \
	--quiet --disable-pip-version-check --no-warn-conflicts
NPM_INSTALL := npm install --silent --no-save --no-audit --no-fund
SAM_PYTHON := SAM_CLI_TELEMETRY=0 AWS_DEFAULT_REGION=eu-central-1 PYTHONPATH=.tools/sam python3
SAM_CLI := $(SAM_PYTHON) -m samcli

export PATH := $(CURDIR)/.tools/cargo-lambda/bin:$(PATH)

.PHONY: help run test tools test-clients test-snippets deploy-test smoke-test validate audit fuzz bench screenshot \
	aws-sdk-js rust python

help:
	@sed -n '/^$$/q; s/^# \{0,1\}//p' Makefile

run: tools
	@echo 'Building the local DynamoDB: the first time, this takes a minute or two.'
	@cargo run --locked --example local

test: tools
	cargo test --locked

tools: rust $(CARGO_LAMBDA_STAMP)

# Of its dependencies cargo-lambda needs zig only to build for Lambda.
$(CARGO_LAMBDA_STAMP): | python
	@echo 'Installing cargo-lambda $(CARGO_LAMBDA) into .tools (14 MB, once).'
	@rm -rf $(@D)
	@$(PIP_INSTALL) --no-deps --target $(@D) cargo-lambda==$(CARGO_LAMBDA)
	@touch $@

# With a Chromium of your own: make test-clients CHROMIUM=path
test-clients: tools $(PYTHON_CLIENTS_STAMP) $(NODE_CLIENTS_STAMP)
	@chromium=$${CHROMIUM:-$$(tests/clients/need chromium chromium-browser google-chrome)} && \
		CHROMIUM=$$chromium python3 tests/clients/run.py $(CLIENTS)

screenshot:
	@$(MAKE) --no-print-directory test-clients CLIENTS=browser SCREENSHOT=docs/screenshot.png

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

# It asks for aws-sdk-js by itself once Node.js is there.
test-snippets: tools $(BOTO3_STAMP)
	tests/snippets/run

aws-sdk-js: $(AWS_SDK_JS_STAMP)

$(BOTO3_STAMP): | python
	@echo 'Installing boto3 $(BOTO3) into .tools (30 MB, once).'
	@rm -rf $(@D)
	@$(PIP_INSTALL) --target $(@D) boto3==$(BOTO3)
	@touch $@

$(AWS_SDK_JS_STAMP):
	@echo 'Installing the AWS SDK for JavaScript $(AWS_SDK_JS) into .tools (40 MB, once).'
	@rm -rf $(@D)
	@$(NPM_INSTALL) --prefix $(@D) @aws-sdk/client-dynamodb@$(AWS_SDK_JS) @aws-sdk/lib-dynamodb@$(AWS_SDK_JS)
	@touch $@

deploy-test: tools $(SAM_STAMP) $(ZIG_STAMP) $(MINISTACK_STAMP)
	@PYTHONPATH=$(CURDIR)/.tools/sam:$(CURDIR)/.tools/ministack:$(CURDIR)/.tools/zig python3 -u tests/deploy/main.py

# The SAM CLI brings boto3.
smoke-test: $(SAM_STAMP)
	@[ -n '$(STACK)' ] || { echo 'Which stack? make smoke-test STACK=name'; exit 1; }
	@PYTHONPATH=.tools/sam python3 tests/deploy/smoke.py '$(STACK)' $(URL)

# Each finds what the others do not; cfn-lint sees undefined references only in what the SAM transform has made.
validate: $(SAM_STAMP)
	$(SAM_CLI) validate --lint
	$(SAM_CLI) validate
	$(SAM_PYTHON) .ci/validate-template

$(SAM_STAMP): | python
	@echo 'Installing the AWS SAM CLI $(SAM) into .tools (320 MB, once).'
	@rm -rf $(@D)
	@$(PIP_INSTALL) --target $(@D) aws-sam-cli==$(SAM)
	@touch $@

$(ZIG_STAMP): | python
	@echo 'Installing zig $(ZIG) into .tools (380 MB, once).'
	@rm -rf $(@D)
	@$(PIP_INSTALL) --target $(@D) ziglang==$(ZIG)
	@touch $@

$(MINISTACK_STAMP): | python
	@echo 'Installing MiniStack $(MINISTACK) into .tools (65 MB, once).'
	@rm -rf $(@D)
	@$(PIP_INSTALL) --target $(@D) ministack==$(MINISTACK)
	@touch $@

# Without the advisory database, which comes from GitHub, the rest is checked all the same.
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

# Unoptimized, they are built in half the time, and are fast enough.
$(DENY_STAMP) $(MACHETE_STAMP): .tools/%:
	@echo 'Building $(*D) $(*F) into .tools (once; a minute).'
	@rm -rf $(@D)
	@CARGO_PROFILE_DEV_DEBUG=0 cargo install --quiet --locked --debug --root $(@D) $(*D)@$(*F)
	@touch $@

$(TYPOS_STAMP): | python
	@echo 'Installing typos $(TYPOS) into .tools (8 MB, once).'
	@rm -rf $(@D)
	@$(PIP_INSTALL) --target $(@D) typos==$(TYPOS)
	@touch $@

# No sanitizer: what it finds, safe Rust does not do. New inputs go into the first folder.
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

# What is fuzzed has the dependencies of what is deployed; cargo adds those of the fuzzer.
tests/fuzz/Cargo.lock: Cargo.lock
	@cp $< $@

$(FUZZ_STAMP):
	@echo 'Installing cargo-fuzz $(CARGO_FUZZ) into .tools (once).'
	@rm -rf $(@D)
	@cargo install --quiet --locked --root $(@D) cargo-fuzz@$(CARGO_FUZZ)
	@touch $@

# Three packages, so that none is built with the features of another. Where there is no npm, Node is not measured; where there
# is no valgrind, instructions are not counted, which takes a build with symbols.
bench: rust $(BOTO3_STAMP) $(if $(shell command -v npm),$(AWS_SDK_JS_STAMP))
	@echo 'Building the function, the baselines and the bench: the first time, this takes some minutes.'
	cargo build --locked --release
	cargo build --locked --release --manifest-path tests/bench/baselines/Cargo.toml --target-dir target/bench
	cargo build --locked --release --manifest-path tests/bench/Cargo.toml --target-dir target/bench
	$(if $(shell command -v valgrind),CARGO_PROFILE_RELEASE_STRIP=false cargo build --locked --release --target-dir target/callgrind)
	@target/bench/release/bench $(BENCH:%=--%) $(COMPARE)

rust:
	@command -v cargo >/dev/null || { echo 'Rust is missing: no cargo on the PATH. See https://rustup.rs'; exit 1; }

python:
	@command -v python3 >/dev/null || \
		{ echo 'Python is missing: no python3 on the PATH. It installs the tools.'; exit 1; }
	@python3 -m pip --version >/dev/null 2>&1 || \
		{ echo 'pip is missing (Debian, Ubuntu: apt install python3-pip). It installs the tools.'; exit 1; }
