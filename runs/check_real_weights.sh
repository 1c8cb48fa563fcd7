#!/usr/bin/env bash
# On a machine with network and some 40 GB of disk: fetch the real weights of every metric, score one pair with each, and
# compare with the values that are published. Prints one line a metric; exit code 1 when a published value is missed or
# a metric that should work does not. Gated weights need HF_TOKEN; without it they are listed as skipped.
# usage: runs/check_real_weights.sh OUT [NAME...]     (default: all metrics; killed, call it again)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
out=${1:?usage: runs/check_real_weights.sh OUT [NAME...]}
shift
identisim=${IDENTISIM:-.venv/bin/identisim}
python=${PYTHON:-.venv/bin/python}
mkdir -p "$out"
[ -d "$out/world" ] || "$identisim" world sample "$out/world" --identities 2 --views 2 --seed 7
mapfile -t pictures < <(find "$out/world/images" -name '*.png' | sort)
failed=0

# Say a similarity with eight digits, or the reason why there is none.
similarity() { "$identisim" compare "$1" "$2" --metric "$3" --json | "$python" -c 'import json,sys; print(json.load(sys.stdin)["similarity"])'; }

names=("$@")
if [ ${#names[@]} -eq 0 ]; then
  mapfile -t names < <("$identisim" metrics --json | "$python" -c 'import json,sys; [print(m["name"]) for m in json.load(sys.stdin)["metrics"]]')
fi
for name in "${names[@]}"; do
  if "$identisim" pull "$name" >"$out/$name.log" 2>&1 && same=$(similarity "${pictures[0]}" "${pictures[1]}" "$name" 2>>"$out/$name.log") &&
    other=$(similarity "${pictures[0]}" "${pictures[2]}" "$name" 2>>"$out/$name.log"); then
    echo "ok       $name: same object $same, other object $other"
  elif grep -q "gated\|Kaggle\|accept-licence" "$out/$name.log"; then
    echo "skipped  $name: $(tail -1 "$out/$name.log")"
  else
    echo "FAILED   $name: $(tail -1 "$out/$name.log")"
    failed=1
  fi
done

# DreamSim's README: the ensemble gives 0.4453 and 0.2756 as distances of its example pictures to their reference.
if [[ " ${names[*]} " == *" dreamsim-ensemble "* ]]; then
  page=https://raw.githubusercontent.com/ssundaram21/dreamsim/main/images
  for picture in ref_1 img_a_1 img_b_1; do
    [ -s "$out/$picture.png" ] || curl -fsSL "$page/$picture.png" -o "$out/$picture.png" || true
  done
  if [ -s "$out/ref_1.png" ] && [ -s "$out/img_a_1.png" ] && [ -s "$out/img_b_1.png" ]; then
    for expected in img_a_1:0.4453 img_b_1:0.2756; do
      found=$(similarity "$out/ref_1.png" "$out/${expected%%:*}.png" dreamsim-ensemble)
      "$python" - "$found" "${expected#*:}" <<'PY' || failed=1
import sys
distance, published = 1 - float(sys.argv[1]), float(sys.argv[2])
close = abs(distance - published) < 2e-3
print(f"{'ok      ' if close else 'FAILED  '} dreamsim-ensemble: distance {distance:.4f}, published {published}")
sys.exit(not close)
PY
    done
  else
    echo "skipped  dreamsim-ensemble: its example pictures could not be fetched"
  fi
fi
exit "$failed"
