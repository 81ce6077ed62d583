#!/usr/bin/env bash
# CI job: build a model, publish it under the commit, sign it, and point `current` to it. A job that is killed goes on
# where it was: finished stages are in the cache, which the whole team shares in the store.
#
#   examples/ci.sh mixtral s3://bucket/engines KEY.pem
set -euo pipefail
model=$1 store=$2 key=$3
version=${GITHUB_SHA:-$(git rev-parse HEAD)}

lmi-compile plan --model "$model" --tp 8
lmi-compile build --model "$model" --tp 8 --output build/artifact --name "$model" --cache "$store/cache" --json 2>build.jsonl
lmi-compile sign build/artifact --key "$key"
lmi-compile report build/artifact --events build.jsonl --output report.html
lmi-compile push build/artifact "$store/$model@$version"
lmi-compile promote "$store/$model@$version" --to current
