# What a person types. Every command works on a machine with Rust and nothing else, but for those of
# SPDK at the end.
SHELL := /bin/bash
.PHONY: all install deb demo pictures test bench bench-instructions bench-scaling lint sim loom miri fuzz spdk test-spdk test-pcie bench-spdk lint-spdk

all:
	cargo build --release

# Programs and all that belongs to them, after make, and make spdk if that is wanted: make install PREFIX=/usr/local DESTDIR=.
# install/install.sh says what else can be chosen.
install: export PREFIX := $(PREFIX)
install: export DESTDIR := $(DESTDIR)
install:
	@install/install.sh

# A Debian package of what needs no SPDK, into target/debian.
deb: all
	install/deb.sh

# A volume on a file, real data through it, and what became of it.
demo:
	cargo build --release -p vdo-tgt --bin vdo_tgt -p vdo-tests --bin demo
	VDO_TGT=target/release/vdo_tgt target/release/demo

# The pictures of docs/operations.md, of what is really seen; Prometheus has to be there (Debian: prometheus).
pictures:
	cargo build -p vdo-tgt --bin vdo_tgt -p vdo-watch --bins -p vdo-tests --bin pictures
	VDO_TGT=target/debug/vdo_tgt target/debug/pictures

# Runs a test command, then names what was skipped and counts.
define counted
	@mkdir -p target
	@set -o pipefail; \
	$(1) 2>&1 | tee target/$(2); result=$$?; \
	grep -ho 'skipped: .*' target/$(2) | sort -u; \
	awk -v skipped=$$(grep -ho 'skipped: .*' target/$(2) | sort -u | wc -l) \
	  '/^test result:/ { passed += $$4; failed += $$6 } \
	   END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped }' target/$(2); \
	exit $$result
endef

# Every test that can run here. Those that need a tool that is missing are named at the end.
test:
	@cargo build -p vdo-tgt -p vdo-watch -p vdo-estimate -p vdo-install --bins
	$(call counted,cargo test --no-fail-fast,test.log)

# Figures, in one run: instructions and I/O per second of the engine on memory, and of its parts. Adds a line to bench/history.csv.
bench:
	cargo bench -p vdo-tgt --bench volume
	cargo run --release -p vdo-tests --bin hash_bench
	cargo run --release -p vdo-tests --bin lz4_bench
	cargo run --release -p vdo-tests --bin index_bench

# Instructions per 4 KiB of the rows of make bench whose names contain ROW: make bench-instructions ROW=overwrites
ROW ?= overwrites
bench-instructions:
	cargo bench -p vdo-tgt --bench volume -- --instructions "$(ROW)"

# What 1 to 16 zone threads cost and the busiest of them, in instructions: how far a volume scales on a machine with more cores than this.
bench-scaling:
	cargo bench -p vdo-tgt --bench volume -- --scaling

# Random volumes under random requests and faults: make sim SEEDS=1000, and FROM= to begin at another seed. With LOSSES=20,
# each volume loses power that many times. A seed that fails is made smaller, and printed with the command that repeats it.
SEEDS ?= 1000
FROM ?= 0
sim:
	cargo run -p vdo-tests --bin sim -- --seeds $(SEEDS) --from $(FROM) $(if $(LOSSES),--losses $(LOSSES)) $(LIMITS)

# Every order in which threads can meet without a lock, none left out; make test leaves the least likely ones out.
loom:
	THOROUGH=1 cargo test -p vdo-threads

# The unsafe modules that call no system and no SPDK, every access to memory checked: buffers, and their way to a device and back
# through the block map and the journal; hashing; the list of ended I/Os. Miri has no vector instructions unless told to, so hashing is
# tried without and with them. About five minutes.
MIRI := MIRIFLAGS=-Zmiri-disable-isolation PROPTEST_CASES=2 cargo +nightly miri test
MIRI_VECTORS := profile.dev.package.vdo.rustflags=["-Ctarget-feature=+avx2,+avx512f,+avx512dq,+avx512vl"]
miri:
	@if ! cargo +nightly miri --version >/dev/null 2>&1; then \
	  echo 'skipped: miri needs a nightly compiler and its component (rustup +nightly component add miri): buffers, hashing' \
	    'and the list of ended I/Os were not checked'; exit 0; fi; \
	set -ex; cargo +nightly miri test -p vdo-threads; \
	$(MIRI) -p vdo --lib -- buffer:: hash:: runtime::task runtime::test_disk runtime::shared_flush depot::locks poll::mailbox \
	  block_map::tests::cache block_map::tests::writes journal::tests::entries; \
	if [ $$(uname -m) = x86_64 ]; then \
	  $(MIRI) -p vdo --lib -Zprofile-rustflags --config '$(MIRI_VECTORS)' -- hash::x86; fi

# A minute of fuzzing for each thing that reads what a disk holds: make fuzz, or SECONDS_EACH=600 for longer. What is found goes to
# tests/fuzz/found, where the tests try it from then on.
SECONDS_EACH ?= 60
fuzz:
	@if ! cargo +nightly fuzz --version >/dev/null 2>&1; then \
	  echo "skipped: fuzzing needs a nightly compiler and cargo-fuzz (cargo install cargo-fuzz)"; exit 0; fi; \
	set -e; for target in $$(cargo +nightly fuzz list --fuzz-dir tests/fuzz); do \
	  mkdir -p tests/fuzz/corpus/$$target; \
	  cargo +nightly fuzz run --fuzz-dir tests/fuzz $$target -- -max_total_time=$(SECONDS_EACH) -timeout=20 \
	    -artifact_prefix=tests/fuzz/found/$$target-; done

# The engine twice: as its tests see it, and as a host builds it.
lint:
	cargo fmt --all -- --check
	cargo clippy --all-targets -- -D warnings
	cargo clippy -p vdo-tgt -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --no-deps --document-private-items
	@if cargo deny --version >/dev/null 2>&1; then cargo deny check licenses bans sources; \
	else echo 'lint: no cargo-deny on this machine: licences and sources of crates were not checked'; fi

# With an installed SPDK (SPDK_PREFIX says where it is; see docs/operations.md): spdk_vdo_tgt, which is
# spdk_tgt with the vdo bdev module in it.
spdk:
	cargo build --release -p spdk --bin spdk_vdo_tgt

# SPDK's source tree, built, for its programs that are not installed; without it their tests are skipped.
SPDK_DIR ?= $(wildcard $(or $(SPDK_PREFIX),/opt/spdk)/src)
SPDK_PROGRAMS = $(if $(wildcard $(SPDK_DIR)/test/bdev/bdevio/bdevio.o),--features spdk-programs)

# Every test that needs SPDK. Its programs poll, so one test at a time has the machine.
test-spdk: export SPDK_DIR := $(SPDK_DIR)
test-spdk:
	@cargo build -p vdo-tgt --bin vdo_tgt
	@cargo build -p spdk $(SPDK_PROGRAMS)
	$(call counted,cargo test -p spdk-sys -p spdk $(SPDK_PROGRAMS) --no-fail-fast,test-spdk.log)

# Volumes on NVMe drives on PCIe, in an emulated machine: by hand, a quarter of an hour. SPDK_GENERIC is where an SPDK for any processor is
# installed; see docs/hardware.md.
test-pcie:
	@test -n "$(SPDK_GENERIC)" || { echo 'SPDK_GENERIC= has to say where an SPDK for any processor is installed: docs/hardware.md'; exit 1; }
	SPDK_PREFIX=$(SPDK_GENERIC) cargo build -p spdk --bin spdk_vdo_tgt --target-dir target/generic
	PCIE_VDO_TGT=$(CURDIR)/target/generic/debug/spdk_vdo_tgt cargo test -p spdk --test pcie -- --test-threads 1

# Figures under SPDK's bdevperf, the volume beside a passthru bdev, on memory and over NVMe/TCP.
bench-spdk: export SPDK_DIR := $(SPDK_DIR)
bench-spdk:
	cargo build --release -p spdk --bin spdk_vdo_tgt
	cargo bench -p spdk --features spdk-programs --bench bdevperf

lint-spdk: export SPDK_DIR := $(SPDK_DIR)
lint-spdk:
	cargo clippy -p spdk-sys -p spdk $(SPDK_PROGRAMS) --all-targets -- -D warnings
