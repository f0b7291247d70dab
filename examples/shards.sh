#!/usr/bin/env bash
# Score a folder in shards, as the jobs of a cluster do, and merge them to one score file.
#
#   examples/shards.sh FOLDER N        (default: the example folder, 4)
#
# Here two shards at a time on one machine; score.sbatch is the same for Slurm. Each shard leaves a
# part in parts/, in a new folder each time.
set -euo pipefail

folder=${1:-$(cd "$(dirname "$0")" && pwd)/mixed}
n=${2:-4}
work=$(mktemp -d)

seq "$n" | xargs -P 2 -I{} hvaeood score "$folder" --shard "{}/$n" --output "$work/parts" --quiet
hvaeood merge "$work/parts" --output "$work/scores.h5"
