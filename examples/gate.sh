#!/usr/bin/env bash
# A gate in a pipeline: let a folder through, or set it aside with a report that says why.
#
#   examples/gate.sh FOLDER LEVEL      (default: the example folder, a false-discovery rate of 5 %)
set -euo pipefail

folder=${1:-$(cd "$(dirname "$0")" && pwd)/mixed}
level=${2:-0.05}
aside=$(mktemp -d)

status=0
hvaeood score "$folder" --output "$aside/scores.h5" --fdr "$level" --fail-on-flagged --quiet || status=$?
case $status in
  0 | 4) echo "$folder: nothing is flagged" ;;
  1)
    hvaeood report "$aside/scores.h5" --output "$aside/report.html" --quiet
    echo "$folder: flagged images, see $aside/report.html"
    ;;
  *) exit "$status" ;;
esac
