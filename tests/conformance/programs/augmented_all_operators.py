# expect: 60 2.5 [1, 2] {1, 2, 3} abb
x = 7
x += 1; x -= 2; x *= 3; x //= 2; x **= 2; x %= 50; x <<= 2; x >>= 1; x |= 1; x &= 0xFF; x ^= 3
y = 10
y /= 4
xs = [1]
alias = xs
xs += [2]
s = {1, 2}
s |= {3}
t = "a"
t += "b" * 2
print(x, y, alias, s, t)
