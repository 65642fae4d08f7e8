"""What the examples share: a model server, a collector, a place on loopback to run in, and the tree of a trace."""
