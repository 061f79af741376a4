#!/bin/sh
# What the image runs; its arguments go to `moyu serve`: --public, --limits FILE, --read-only, --base-path PREFIX.
set -eu
mkdir -p "$MOYU_HOME"
# Models that were baked into the image appear in the volume; one fetched there earlier is left alone.
if [ -d /opt/models ] && [ ! -e "$MOYU_HOME/models" ]; then
  mkdir "$MOYU_HOME/models"
  for model in /opt/models/*; do
    [ -d "$model" ] && ln -s "$model" "$MOYU_HOME/models/"
  done
fi
exec python -m moyu_core.cli serve --host 0.0.0.0 --port "${PORT:-8501}" "$@"
