#!/usr/bin/env bash
# Train `compact` from nothing: render a world with half of the cores while the other half learns from it.
# usage: runs/train_compact.sh OUT [MINUTES=78] [SHARDS=90]     (90 shards of 768 pictures take 4.5 GB)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:?usage: runs/train_compact.sh OUT [MINUTES] [SHARDS]}
minutes=${2:-78}
shards=${3:-90}
python=.venv/bin/python
cores=$(getconf _NPROCESSORS_ONLN)

export OMP_NUM_THREADS=1
"$python" -m identisim.world.shards "$out/shards" 2 0 1 --prefix held
"$python" -m identisim.world.shards "$out/shards" 1 0 2 # enough to begin with
"$python" -m identisim.world.shards "$out/shards" 1 2 "$((shards - 2))" &
renderer=$!
trap 'kill "$renderer" 2>/dev/null || true' EXIT

# without huge pages the page faults of big activations cost much of the speed on virtual machines
export GLIBC_TUNABLES=glibc.malloc.hugetlb=1:glibc.malloc.mmap_max=0:glibc.malloc.trim_threshold=20000000000
OMP_NUM_THREADS=$((cores > 1 ? cores / 2 : 1)) \
  "$python" -m identisim.training.compact "$out/shards" "$out/run" --minutes "$minutes"
echo "weights: $out/run/compact.safetensors"
