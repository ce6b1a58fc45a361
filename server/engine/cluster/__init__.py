"""Workers on a Ray cluster, shared by all fronts. Only ``join`` and ``engine`` import ray."""
