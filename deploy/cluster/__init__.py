"""A whole cluster on one machine, to try things out: what `make cluster` starts."""
