# language: python
# expect: ok error protocol timeout
# why: The agent shares the interpreter; only this run is harmed.
# hasty
import builtins
builtins.len = builtins.isinstance = builtins.str = lambda *a: 0
print('x')
