#!/usr/bin/env bash
# Before a machine gets traffic: fetch the current artifact, verify and load it, let it answer once, then serve it.
# `scripts/prewarm` does the same in front of any other server.
#
#   examples/prewarm.sh s3://bucket/engines/mixtral@current /opt/ml/model
set -euo pipefail
artifact=$1 folder=$2

lmi-compile prewarm "$artifact" "$folder"
exec lmi-compile serve "$folder" --port 8080
