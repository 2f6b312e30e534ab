# language: restricted
# expect: rejected error
# why: A copy has the same private names.
import copy
escaped(getattr(copy.copy(context), "_fetch"))
