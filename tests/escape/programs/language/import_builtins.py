# language: restricted
# expect: rejected error
# why: The unguarded builtins.
import builtins
escaped(builtins.open)
