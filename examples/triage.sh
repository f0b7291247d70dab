#!/usr/bin/env bash
# Copy the oddest images of a folder aside, and draw what the model made of them.
#
#   examples/triage.sh FOLDER N        (default: the example folder, 12)
set -euo pipefail

folder=${1:-$(cd "$(dirname "$0")" && pwd)/mixed}
n=${2:-12}
aside=$(mktemp -d)/odd
mkdir -p "$aside"

# JSON lines keep any file name whole; python3 takes the n oddest and ends each with NUL.
hvaeood score "$folder" --output "$aside/scores.h5" --jsonl --quiet |
  python3 -c '
import heapq, json, os, sys
rows = [row for row in map(json.loads, sys.stdin) if row["status"] == "scored"]
for row in heapq.nlargest(int(sys.argv[1]), rows, key=lambda row: row["combined"]):
    sys.stdout.buffer.write(os.fsencode(row["path"]) + b"\0")
' "$n" |
  xargs -0 cp -t "$aside"
hvaeood reconstruct "$aside"/*.png --output "$aside/grid.png"
ls "$aside"
