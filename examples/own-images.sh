#!/usr/bin/env bash
# From a folder of which nothing is known to a decision: grey images, then colour, with bad files
# among them. What docs/own-images.md tells, in small.
#
#   examples/own-images.sh MINUTES        (default: 0.1 for each folder)
set -euo pipefail

minutes=${1:-0.1}
mixed=$(cd "$(dirname "$0")" && pwd)/mixed
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# A command that did all it could ends with 4 where some files are no images.
all_but_bad() { "$@" || [ $? -eq 4 ]; }

mkdir grey colour more
cp "$mixed"/*.png grey/
cp grey/000.png grey/a-copy.png
echo "no image" >grey/broken.png
echo "no image, and it does not say so" >grey/notes.txt
python3 - "$mixed" colour <<'EOF'
import pathlib, sys
from PIL import Image, ImageOps
for number, path in enumerate(sorted(pathlib.Path(sys.argv[1]).glob("*.png"))):
    tint = ("teal", "tomato", "gold")[number % 3]
    ImageOps.colorize(Image.open(path).convert("L"), "black", tint).save(f"{sys.argv[2]}/{path.name}")
EOF

all_but_bad hvaeood find grey/ --minutes "$minutes"
hvaeood find colour/ --minutes "$minutes"

all_but_bad hvaeood decide grey.scores.h5 --fpr 5% --copy-to odd/
find odd -name '*.png' | grep -q .

# More images come; what is there already is kept.
cp "$mixed"/100.png grey/later.png
rm grey/001.png
all_but_bad hvaeood score grey/ --model grey.model -o grey.scores.h5 | grep gone
all_but_bad hvaeood decide grey.scores.h5 --fpr 5% --move-to away/
hvaeood decide --undo-move away/
test -s grey.report.html
