"""`python -m probekit`: the command line."""

from probekit.cli import main

main()
