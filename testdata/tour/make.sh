#!/usr/bin/env bash
# Makes the chain of the guided tour anew: base.vhdx <- monday.avhdx <- tuesday.avhdx, a small ext4 file system in which
# something happens each day. Needs mke2fs, debugfs (e2fsprogs), qemu-img (qemu-utils), gzip, and vdisk built.
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
vdisk=(node "$here/../../dist/cli/main.js")
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
cd "$work"
export SOURCE_DATE_EPOCH=1700000000 E2FSPROGS_FAKE_TIME=1700000000

mkdir files
printf 'A diary of a small disk.\n' > files/README.txt
seq 1 20000 > files/numbers.txt
# 48 MiB of file system at the start of a disk of 64 MiB; what is behind it belongs to nobody.
mke2fs -q -t ext4 -O ^has_journal -L diary -U 6f1c2a4e-0d51-4d0c-9a55-2f3b7c6d8e90 -E hash_seed=00000000-0000-4000-8000-000000000001,lazy_itable_init=0 \
  -d files day0.raw 48M
truncate -s 64M day0.raw
qemu-img convert -f raw -O vhdx -o subformat=dynamic,block_size=1M day0.raw base.vhdx

cp day0.raw day1.raw
printf 'Monday: rain, and a backup.\n' > monday.txt
seq 1 3 200000 > backup.txt
debugfs -w -R 'write monday.txt monday.txt' day1.raw 2>/dev/null
debugfs -w -R 'write backup.txt backup.txt' day1.raw 2>/dev/null
"${vdisk[@]}" convert -q -f raw day1.raw monday.avhdx --format vhdx --parent base.vhdx -o block_size=1M

cp day1.raw day2.raw
seq 20000 -1 1 > tuesday.txt
debugfs -w -R 'write tuesday.txt tuesday.txt' day2.raw 2>/dev/null
debugfs -w -R 'rm numbers.txt' day2.raw 2>/dev/null
"${vdisk[@]}" convert -q -f raw day2.raw tuesday.avhdx --format vhdx --parent monday.avhdx -o block_size=1M

for image in base.vhdx monday.avhdx tuesday.avhdx; do gzip -9n -c "$image" > "$here/$image.gz"; done
sha256sum day2.raw | cut -d' ' -f1 > "$here/disk.sha256"
