"""Boxes in containers of a Docker daemon, with runc or with gVisor: `Docker` is in `backend`, `Daemon` in `daemon`.

Nothing is imported here: the daemon's SDK takes longer to load than a jail takes to start, and some modules do not need
it.
"""
