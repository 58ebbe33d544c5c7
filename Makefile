# Breakwater's commands. `make` alone lists them.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X github.com/breakwater-oci/breakwater/pkg/version.release=$(VERSION)
BUILD := CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)'

# Modules of their own, so that the product's go.mod names nothing that only tests need.
SUITES := $(patsubst %/go.mod,%,$(wildcard test/conformance/go.mod test/e2e/go.mod))
MODULES := . $(patsubst %/go.mod,%,$(wildcard test/*/go.mod))

RIG := $(or $(BREAKWATER_RIG),$(or $(XDG_CACHE_HOME),$(HOME)/.cache)/breakwater-rig)

help: ## List these commands
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

up: ## Run a hub and a node agent on this machine; ARGS="..." adds flags
	@mkdir -p bin
	@$(BUILD) -o bin/breakwater ./cmd/breakwater
	@exec bin/breakwater up $(ARGS)

build: ## Build all programs but the scanner into bin/
	@mkdir -p bin
	$(BUILD) -o bin/ $$(go list ./cmd/... | grep -v /breakwater-scan$$)

# All of Trivy, which needs a Go experiment that the other programs are built
# without: the first build takes minutes (20 on two slow cores).
SCAN := GOEXPERIMENT=jsonv2 CGO_ENABLED=0

build-scan: ## Build the scanner, bin/breakwater-scan; the first time takes a while
	@mkdir -p bin
	GOEXPERIMENT=jsonv2 $(BUILD) -o bin/ ./cmd/breakwater-scan

test-scan: ## Test the scanner, with what `make test` leaves out
	@$(SCAN) go vet -trimpath ./cmd/breakwater-scan ./hub/scan/analyze
	$(SCAN) go test -trimpath ./cmd/breakwater-scan ./hub/scan/analyze

test: ## Run all tests; what needs a missing component says so and is skipped (with CI=true: fails)
	@failed=0; \
	if [ -x bin/breakwater-scan ]; then $(MAKE) build-scan test-scan || failed=1; fi; \
	go test -timeout=20m ./... || failed=1; \
	for m in $(SUITES); do (cd $$m && go test -count=1 -timeout=30m ./...) || failed=1; done; \
	exit $$failed

check: ## Check formatting, vet and lint everything, and hold packages to the import table
	@out=$$(gofmt -l .); if [ -n "$$out" ]; then echo "not gofmt'ed:"; echo "$$out"; exit 1; fi
	@for m in $(MODULES); do echo "vet $$m"; (cd $$m && go build -o /dev/null ./... && go vet ./...); done
	@if [ -d test/arch ]; then go test ./test/arch; fi
	@lint=$$(PATH="$(RIG)/bin:$$PATH" command -v golangci-lint) || { echo "golangci-lint is missing: run \`make rig\`"; exit 0; }; \
	for m in $(MODULES); do echo "lint $$m"; (cd $$m && "$$lint" run --config $(CURDIR)/.golangci.yml ./...); done

soak: ## Push, pull, delete and collect garbage at random for an hour, on both kinds of stores; FOR=10m is shorter
	@go test -count=1 -timeout=0 -parallel=4 -v -run '^TestSoak$$' ./hub/gc -soak=$(or $(FOR),1h)

test-s3: ## Run the storage tests against another S3: S3=host:port,accessKey,secretKey, MinIO for instance
	@test -n "$(S3)" || { echo 'usage: make test-s3 S3=host:port,accessKey,secretKey    (it makes buckets of its own, and removes them)'; exit 2; }
	@BREAKWATER_TEST_S3='$(S3)' go test -count=1 -timeout=30m ./hub/blob/... ./hub/registry ./hub/gc

bench: ## Measure against real components; BENCH=warm measures that alone, ARGS=-runs=1 is quicker
	@cd test/bench && go test -count=1 -timeout=2h -v -run '^TestBench$$/^($(or $(BENCH),.*))$$' $(ARGS)

rig: ## Install what the tests run against (containerd, a registry, ...) and the linter
	@test/rig/install.sh

clean: ## Remove what was built here; what `make rig` installed stays
	rm -rf bin

.PHONY: help up build build-scan test test-scan check soak test-s3 bench rig clean
