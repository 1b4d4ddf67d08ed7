#!/bin/bash
# SPDX-License-Identifier: GPL-2.0
#
# Replaces the seed corpus with a small set of inputs that reach the same code.
#
#   make fuzz FUZZ_SECONDS=60
#   tools/testing/luo-vm/sandbox.sh enter /luo/tools/testing/selftests/liveupdate/fuzz/minimize.sh
#
# The first command builds the targets and writes new inputs to build/fuzz,
# which are used as well. libFuzzer then selects a small set with the same edge
# coverage as all inputs together; the counts of edges are ignored, since the
# fuzzer reaches them again in seconds. Shorter inputs are preferred. The
# coverage is printed before and after, and must not decrease.

set -eu -o pipefail

here=$(cd "$(dirname "$0")" && pwd)
top=$(cd "$here/../../../../.." && pwd)
programs=${CARGO_TARGET_DIR:-$top/build/target}/fuzz/x86_64-unknown-linux-gnu/release
options=(-max_len=8192 -use_counters=0)

# Prints the number of edges that the inputs in a directory reach.
coverage() {
	"$programs/$1" "${options[@]}" -runs=0 "$2" 2>&1 </dev/null |
		sed -n 's/^#[0-9]*[[:space:]]*DONE[[:space:]]*cov: \([0-9]*\).*/\1/p'
}

for name in pages lists memfd hugetlb kvm vfio image; do
	[ -x "$programs/$name" ] || { echo "$programs/$name is missing: run make fuzz first." >&2; exit 1; }
	corpus=$here/corpus/$name
	inputs=("$corpus")
	[ ! -d "$top/build/fuzz/$name" ] || inputs+=("$top/build/fuzz/$name")
	small=$(mktemp -d)
	before=$(coverage "$name" "$corpus")
	"$programs/$name" "${options[@]}" -set_cover_merge=1 "$small" "${inputs[@]}" \
		>"$top/build/minimize-$name.log" 2>&1 </dev/null
	after=$(coverage "$name" "$small")
	echo "$name: $(find "$corpus" -type f | wc -l) inputs with coverage $before," \
		"now $(find "$small" -type f | wc -l) with coverage $after"
	[ "$after" -ge "$before" ] || { echo "$name: the new set reaches less." >&2; exit 1; }
	find "$corpus" -type f -delete
	cp "$small"/* "$corpus"
	rm -r "$small"
done
