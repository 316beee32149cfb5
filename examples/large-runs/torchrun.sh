#!/usr/bin/env bash
# One worker a GPU of this machine, started by torchrun. Give the config: torchrun.sh config.yaml
# torchrun says each worker its number (RANK, LOCAL_RANK): it takes the GPU of that number.
# When one fails, torchrun starts all of them again; what is sealed stays.
set -euo pipefail
torchrun --standalone --nproc-per-node "${WORKERS:-2}" --max-restarts 3 \
    --no-python probekit run "$@" --quiet
