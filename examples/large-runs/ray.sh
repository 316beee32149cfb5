#!/usr/bin/env bash
# Workers on a Ray cluster: ray.sh config.yaml [--address auto]
# Without an address Ray is started on this machine, for the time of the run.
set -euo pipefail
probekit run "$@" --on ray
