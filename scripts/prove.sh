#!/usr/bin/env bash
# The proof of the cancel contract in full: every stop, crash and failure at every point of every verb, and pairs of them, over
# worlds in memory. Fails if a rule is broken anywhere, or if there are fewer cases than PROVE_LEAST. PROVE_IN names other packages than all.
set -euo pipefail
cd "$(dirname "$0")/.."
least=${PROVE_LEAST:-300000}
begin=$SECONDS
out=$(mktemp)
trap 'rm -f "$out"' EXIT

PROVE=${PROVE:-all} go test -count=1 -timeout 30m -run '^TestProve' -v ${PROVE_IN:-./tasks/... ./storageops ./vmops} | tee "$out" | grep -vE '^(=== |\s*--- PASS|testing: warning|ok|\?|PASS)' || true
if [[ ${PIPESTATUS[0]} != 0 ]] || grep -qE '^(FAIL|panic)' "$out"; then
	echo "prove: a rule of the contract is broken; see above" >&2
	exit 1
fi
total=$(sed -nE 's/^proved ([0-9]+) cases of .*/\1/p' "$out" | awk '{n += $1} END {print n + 0}')
echo "proved $total cases in $((SECONDS - begin)) s"
if ((total < least)); then
	echo "prove: there must be at least $least" >&2
	exit 1
fi
