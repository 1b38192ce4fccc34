#!/bin/sh
# Writes the digest of each image in deploy/base_images.env behind its tag, by what its registry says now. Needs docker
# with buildx, and a way to the registries. To renew: take the digests (@sha256:...) out, and run it again.
set -eu
file=$(dirname "$0")/base_images.env
while IFS= read -r line; do
    case $line in
        \#* | '' | *@sha256:*) printf '%s\n' "$line" ;;
        *)
            digest=$(docker buildx imagetools inspect "${line#*=}" --format '{{.Manifest.Digest}}')
            case $digest in
                sha256:*) printf '%s@%s\n' "$line" "$digest" ;;
                *) echo "${line#*=}: the registry gave no digest, but \"$digest\"." >&2; exit 1 ;;
            esac
            ;;
    esac
done < "$file" > "$file.part"
mv "$file.part" "$file"
