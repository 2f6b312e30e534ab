"""What runs inside the wall. Standard library only (RestrictedPython for the restricted language), never trusted.

The agent shares its process with the guest program, which may rewrite any of this while it runs. Nothing here is a
defence; it is a convenience for honest programs, and the host checks every byte that comes out.
"""
