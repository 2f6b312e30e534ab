# language: python
# expect: protocol
# why: No word of the agent makes a fault of ours.
import guest.agent.loop as agent
agent._raised = lambda error: ('host_fault', None, b'')
raise ValueError('x')
