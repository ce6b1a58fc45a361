"""Workers on the machines of a Ray cluster, shared by all fronts. Only ``join`` and ``engine`` import ray."""
