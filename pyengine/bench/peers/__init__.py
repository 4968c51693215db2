"""The peers: one file per library, which is imported only where it is asked for."""
