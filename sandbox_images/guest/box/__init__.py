"""How a process becomes a box: what starts it, the steps by which it locks itself down, and tests of these steps."""
