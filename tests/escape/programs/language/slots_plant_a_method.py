# language: restricted
# expect: rejected error
# why: Annotations and slots put names into a class that the compiler did not see being written.
from dataclasses import dataclass
@dataclass
class A:
    __getattr__: object = lambda self, name: name
escaped(A().anything)
