# Tools are pinned here and nowhere else.
GOLANGCI_LINT := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0
ACTIONLINT    := github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
ACT           := github.com/nektos/act@v0.2.89
GOVULNCHECK   := golang.org/x/vuln/cmd/govulncheck@v1.8.0
CYCLONEDX     := github.com/CycloneDX/cyclonedx-gomod/cmd/cyclonedx-gomod@v1.10.0
DISTRIBUTION  := github.com/distribution/distribution/v3/cmd/registry@v3.1.2

FUZZTIME ?= 10s
TORTURE  ?= 1h
VERSION  ?=
BIN      ?= bin/

SCRIPTS  := .ci/run internal/nix/nixtest/next.sh $(filter-out %.awk,$(wildcard scripts/*))
WORKFLOWS := $(wildcard .github/workflows/*.yml template/.github/workflows/*.yml)
LDFLAGS  := -s -w $(if $(VERSION),-X github.com/org/nixoci-action/internal/cli.version=$(VERSION))

# The Go tool asks git for the version and fails where git refuses to answer,
# as it does for root in somebody else's checkout.
ifneq ($(shell git status --porcelain >/dev/null 2>&1 && echo ok),ok)
export GOFLAGS := $(GOFLAGS) -buildvcs=false
endif

.PHONY: help
help: ## print this text
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build static binaries into bin/
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/...

.PHONY: program
program: # the same for nixoci alone, which is what is delivered
	CGO_ENABLED=0 go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN) ./cmd/nixoci

.PHONY: sbom
sbom: # what nixoci in BIN is made of, in CycloneDX's form, into dist/nixoci.cdx.json
	go run $(CYCLONEDX) bin -json -noserial -version '$(VERSION)' -output dist/nixoci.cdx.json $(BIN)nixoci

.PHONY: image
image: ## build the container image of the proxy into dist/image
	@for arch in amd64 arm64; do \
		GOOS=linux GOARCH=$$arch $(MAKE) --no-print-directory program BIN=dist/bin/linux-$$arch/ || exit; \
	done
	go run ./internal/image build -bin dist/bin -version '$(VERSION)' -to dist/image

# NIX_DIR=/folder/with/nix: all that follows with that Nix instead of the machine's
ifdef NIX_DIR
export PATH := $(abspath $(NIX_DIR)):$(PATH)
endif

.PHONY: demo
demo: ## publish the example flake, serve it, substitute it into an empty store
	scripts/install-deps --for demo
	@$(MAKE) --no-print-directory build
	scripts/with-nix scripts/demo

.PHONY: test
test: ## lint the workflows, vet, check the format, run all tests with the race detector
	scripts/install-deps --for test
	go run $(ACTIONLINT) $(WORKFLOWS)
	GOBIN='$(CURDIR)/.cache/bin' go install $(ACT)
	PATH="$(CURDIR)/.cache/bin:$$PATH" scripts/with-nix scripts/test

# Packages whose tests need minutes, with real registries, real Nix and injected faults.
SLOW := discover index index/collect index/migrate internal/bench internal/e2e internal/nix internal/registry internal/registrytest proxy proxy/many proxy/push upload

.PHONY: check
check: ## what to run every few minutes: format, vet, lint, the quick tests
	scripts/install-deps --for test
	@test -z "$$(gofmt -l .)" || { gofmt -l . && echo 'these files are not formatted: run gofmt -w .' && exit 1; } >&2
	go vet ./...
	go run $(GOLANGCI_LINT) run
	scripts/with-nix go test -race $$(go list ./... | grep -vxF "$$(printf 'github.com/org/nixoci-action/%s\n' $(SLOW))")

.PHONY: bench
bench: ## measure publish and proxy against the machine; BENCH='-scale 0.05' and other flags
	scripts/install-deps --for test
	@$(MAKE) --no-print-directory build
	go test -run '^$$' -bench . -benchmem ./...
	scripts/with-nix go run ./internal/bench $(BENCH)

.PHONY: lint
lint: ## lint Go code, shell scripts and workflows
	scripts/install-deps --for lint
	go run $(GOLANGCI_LINT) run
	shellcheck $(SCRIPTS)
	go run $(ACTIONLINT) $(WORKFLOWS)

.PHONY: vuln
vuln: ## look for known vulnerabilities in what the code calls
	go run $(GOVULNCHECK) ./...

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (10s)
	FUZZTIME=$(FUZZTIME) scripts/fuzz

# A failure names its seed: repeat it with -soak-seed, -model.seed or -model.history.
.PHONY: torture
torture: ## faults, kills and random histories for more than TORTURE (1h)
	scripts/install-deps --for test
	scripts/with-nix go test ./internal/e2e -count=1 -timeout 0 -v -run '^TestSoak$$' -soak $(TORTURE) -soak-faults 50
	scripts/with-nix go test ./internal/e2e -count=1 -timeout 0 -parallel 8 -v -torture -run '^(TestPassingFaults|TestKilledAfterEachRequest|TestRefusedFromEachRequestOn|TestEightPublishersAtOnce|TestKilledBuildGoesOn)$$'
	CGO_ENABLED=0 go test ./index/collect -count=1 -timeout 0 -v -run '^TestModel$$' -model.histories 20000

# Debian has distribution 2.8; the tests take the docker-registry that is first in PATH.
.PHONY: conformance
conformance: ## the tests of registries, with distribution 3; REGISTRY=HOST/NAMESPACE: also with that one
	scripts/install-deps --for test
	GOBIN='$(CURDIR)/.cache/distribution3' go install $(DISTRIBUTION)
	mv .cache/distribution3/registry .cache/distribution3/docker-registry
	GOBIN='$(CURDIR)/.cache/bin' go install $(ACT)
	PATH="$(CURDIR)/.cache/distribution3:$(CURDIR)/.cache/bin:$$PATH" CI=true scripts/with-nix go test -count=1 -timeout 60m ./upload ./index ./index/migrate ./internal/registry
	PATH="$(CURDIR)/.cache/distribution3:$(CURDIR)/.cache/bin:$$PATH" CI=true scripts/with-nix go test -count=1 -timeout 60m ./internal/e2e -registry '$(REGISTRY)'

.PHONY: clean
clean: ## remove what the other targets made
	rm -rf bin dist
