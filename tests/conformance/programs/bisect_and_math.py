# expect: [1, 4, 5, 9] 2 4.0 2 True 6 10 True 3.142
import bisect
import math
xs = [1, 4, 9]
bisect.insort(xs, 5)
print(xs, bisect.bisect_left(xs, 5), math.sqrt(16), math.ceil(1.2), math.isclose(0.1 + 0.2, 0.3), math.gcd(12, 18), math.comb(5, 2), math.inf > 1, round(math.pi, 3))
