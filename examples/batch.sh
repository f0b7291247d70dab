#!/usr/bin/env bash
# Score several folders, one after the other, in a batch job.
#
#   examples/batch.sh FOLDER...        (default: the example folder)
#
# Each folder has a score file of its own in scores/. Run again after an interruption, what is
# done is done. Exit code 4 of hvaeood means that some images could not be read: noted, not fatal.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
[ $# -gt 0 ] || set -- "$here/mixed"
scores=$(mktemp -d)/scores
mkdir -p "$scores"

for folder in "$@"; do
  status=0
  hvaeood score "$folder" --output "$scores/$(basename "$folder").h5" --jsonl --quiet \
    >"$scores/$(basename "$folder").jsonl" || status=$?
  case $status in
    0 | 4) ;;
    *) exit "$status" ;;
  esac
done
wc -l "$scores"/*.jsonl
