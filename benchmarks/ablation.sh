#!/usr/bin/env bash
# The ablation of docs/training.md: the semantic term's weight, and the proposal it is taken with.
#
#   benchmarks/ablation.sh FASHION_TRAIN.gz MNIST_TRAIN.gz NOTMNIST.gz OUT
#
# Two epochs each, seed 0, one thread, two runs at a time. The FashionMNIST test set has no part
# in it: in-distribution are 3,000 training images that no run trains on.
set -euo pipefail
fashion=$1 mnist=$2 notmnist=$3 out=$4
export OMP_NUM_THREADS=1
mkdir -p "$out"

run() {
  local name=$1
  shift
  hvaeood train "$fashion#0:55000" --out "$out/$name" --epochs 2 --calibrate 0 "$@" 2>"$out/$name.log"
  python -m benchmarks.detection --models "$out/$name" --inside "$fashion#55000:58000" \
    --outside "MNIST=$mnist#0:3000" "notMNIST=$notmnist#0:3000" >"$out/$name.md"
}
export -f run
export fashion mnist notmnist out

xargs -P 2 -I {} bash -euo pipefail -c 'run {}' <<'RUNS'
alpha-0 --semantic-weight 0
alpha-1 --semantic-weight 1
alpha-0.5 --semantic-weight 0.5
alpha-1-sample --semantic-weight 1 --set semantic_proposal=sample
alpha-2 --semantic-weight 2
RUNS
grep -H 'bits/dim\|LLR\|-L>0' "$out"/*.md
