# expect: 25/12 8
from fractions import Fraction
print(sum(Fraction(1, n) for n in range(1, 5)), Fraction("0.125").denominator)
