# language: python
# expect: ok
# why: An answer is an answer, whoever frames it; it is this run's own.
import guest.agent.names as names
names.Endings.final = lambda self, value: self._finish('replaced')
FINAL('real')
