# language: python
# expect: rejected
# why: Only this program's own status is forged by forging it.
import guest.agent.loop as agent
agent._raised = lambda error: ('rejected', None, b'')
raise ValueError('x')
