# What a person types. Every command works on a machine with Rust and nothing else, but for those of
# SPDK at the end.
SHELL := /bin/bash
.PHONY: all demo test bench lint sim spdk test-spdk lint-spdk

all:
	cargo build --release

# A volume on a file, real data through it, and what became of it.
demo:
	cargo build --release -p vdo-tgt --bin vdo_tgt -p vdo-tests --bin demo
	VDO_TGT=target/release/vdo_tgt target/release/demo

# Every test that can run here. Those that need a tool that is missing are named at the end.
test:
	@mkdir -p target
	@set -o pipefail; \
	cargo build -p vdo-tgt --bin vdo_tgt && \
	cargo test --no-fail-fast 2>&1 | tee target/test.log; result=$$?; \
	grep -ho 'skipped: .*' target/test.log | sort -u; \
	awk -v skipped=$$(grep -ho 'skipped: .*' target/test.log | sort -u | wc -l) \
	  '/^test result:/ { passed += $$4; failed += $$6 } \
	   END { printf "%d passed, %d failed, %d skipped\n", passed, failed, skipped }' target/test.log; \
	exit $$result

# Figures, in one run: instructions and I/O per second of the engine on memory, and of its parts.
bench:
	cargo bench -p vdo-tgt --bench volume
	cargo run --release -p vdo-tests --bin hash_bench

# Random volumes under random requests and faults: make sim SEEDS=1000, and FROM= to begin at another seed.
SEEDS ?= 1000
FROM ?= 0
sim:
	cargo run -p vdo-tests --bin sim -- --seeds $(SEEDS) --from $(FROM)

lint:
	cargo fmt --all -- --check
	cargo clippy --all-targets -- -D warnings

# With an installed SPDK (SPDK_PREFIX says where it is; see docs/operations.md): spdk_vdo_tgt, which is
# spdk_tgt with the vdo bdev module in it.
spdk:
	cargo build --release -p spdk --bin spdk_vdo_tgt

lint-spdk:
	cargo clippy -p spdk-sys -p spdk --all-targets -- -D warnings
