"""How a process becomes a box: what starts it, the steps by which it closes in on itself, and what these are worth."""
