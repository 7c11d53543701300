"""Speed beside peers: the same network trained or run in turn by several programs, each in a process of its own."""
