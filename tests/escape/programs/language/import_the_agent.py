# language: restricted
# expect: rejected error
# why: The agent lies on the path that modules are imported from.
from guest.agent import loop as agent
escaped(agent)
