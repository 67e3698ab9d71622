# make run    try the function on this machine, with a DynamoDB in memory and the sessions of a few users
#             (other ports: make run FUNCTION_PORT=9001 DYNAMODB_PORT=8001)
# make test   run all tests
# make tools  install what both need beside Rust: cargo-lambda, into .tools, from PyPI
# make validate  check template.yaml with the AWS SAM CLI, which is installed in the same way

CARGO_LAMBDA := 1.9.2
SAM := 1.170.0
STAMP := .tools/cargo-lambda/$(CARGO_LAMBDA)
SAM_STAMP := .tools/sam/$(SAM)

# These settings of pip's do not go with --target, and a fresh machine may have them.
PIP_INSTALL := PIP_USER=0 PIP_REQUIRE_VIRTUALENV=0 PIP_ROOT_USER_ACTION=ignore python3 -m pip install \
	--quiet --disable-pip-version-check
SAM_CLI := SAM_CLI_TELEMETRY=0 AWS_DEFAULT_REGION=eu-central-1 PYTHONPATH=.tools/sam python3 -m samcli

export PATH := $(CURDIR)/.tools/cargo-lambda/bin:$(PATH)

.PHONY: help run test tools validate rust python

help:
	@sed -n '/^$$/q; s/^# //p' Makefile

run: tools
	@echo 'Building the local DynamoDB: the first time, this takes a minute or two.'
	@cargo run --locked --example local

test: tools
	cargo test --locked

tools: rust $(STAMP)

rust:
	@command -v cargo >/dev/null || { echo 'Rust is missing: no cargo on the PATH. See https://rustup.rs'; exit 1; }

# Of its dependencies cargo-lambda needs zig (100 MB) to build for Lambda only.
$(STAMP): | python
	@echo 'Installing cargo-lambda $(CARGO_LAMBDA) into .tools (14 MB, once).'
	@rm -rf .tools/cargo-lambda
	@$(PIP_INSTALL) --no-deps --target .tools/cargo-lambda cargo-lambda==$(CARGO_LAMBDA)
	@touch $@

# Plain validation finds what linting does not, and the other way round.
validate: $(SAM_STAMP)
	$(SAM_CLI) validate --lint
	$(SAM_CLI) validate

$(SAM_STAMP): | python
	@echo 'Installing the AWS SAM CLI $(SAM) into .tools (320 MB, once).'
	@rm -rf .tools/sam
	@$(PIP_INSTALL) --target .tools/sam aws-sam-cli==$(SAM)
	@touch $@

python:
	@command -v python3 >/dev/null || \
		{ echo 'Python is missing: no python3 on the PATH. It installs the tools.'; exit 1; }
	@python3 -m pip --version >/dev/null 2>&1 || \
		{ echo 'pip is missing (Debian, Ubuntu: apt install python3-pip). It installs the tools.'; exit 1; }
