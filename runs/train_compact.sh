#!/usr/bin/env bash
# Train the packaged weights of `compact` from nothing, in three stages.
# usage: runs/train_compact.sh OUT     (5 GB; about 4 hours on two cores; killed, call it again)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:?usage: runs/train_compact.sh OUT}
identisim=${IDENTISIM:-.venv/bin/identisim}

# one thread: the other cores render. Without huge pages the page faults of big activations cost much of the speed on
# virtual machines
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=20000000000}

"$identisim" train compact --out "$out/first" --minutes "${FIRST_MINUTES:-78}"
shards=$out/first/shards
"$identisim" train foreground --out "$out/foreground" --shards "$shards" --minutes "${FOREGROUND_MINUTES:-50}"
"$identisim" train compact --out "$out/second" --shards "$shards" --minutes "${SECOND_MINUTES:-95}" \
  --initial "$out/first/weights.safetensors" --foreground "$out/foreground/weights.safetensors"
echo "weights: $out/second/weights.safetensors"
