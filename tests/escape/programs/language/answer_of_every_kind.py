# language: restricted
# expect: ok
# why: Each kind of answer is written by the type's own functions: a program's classes would be asked for their words.
# says: given=<
import collections, datetime, decimal, enum
from dataclasses import dataclass
class D(dict):
    def items(self): escaped(self)
    def __iter__(self): escaped(self)
class L(list):
    def __iter__(self): escaped(self)
class Q(collections.deque):
    def __iter__(self): escaped(self)
class C(collections.Counter):
    def items(self): escaped(self)
class S(set):
    def __iter__(self): escaped(self)
class T(str):
    def __len__(self): escaped(self)
    def encode(self, *args): escaped(self)
class N(int):
    def bit_length(self): escaped(self)
    def __abs__(self): escaped(self)
    def __repr__(self): escaped(self)
class E(enum.Enum):
    A = T("a")
@dataclass
class R:
    items: object
    def __iter__(self): escaped(self)
    def keys(self): escaped(self)
values = [D({T("k"): 1}), L([N(1)]), Q([1]), C("a"), S({1}), T("t"), N(3), E.A, R(T("r")), R([E.A])]
values.append([datetime.date(2024, 1, 2), decimal.Decimal(1)])
answer = D({"content": {"all": values, T("x"): {E.A: N(1)}}, "ready": N(1), T("other"): 1})
