"""Our own algorithms, each a `surprise.AlgoBase`; `algorithms.catalogue` lists all by name."""
