# expect: 2 3 5 7 -2
for n in range(2, 10):
    for d in range(2, n):
        if n % d == 0:
            break
    else:
        print(n, end=" ")
i = 10
while i:
    i -= 3
    if i < 0:
        break
else:
    print("never")
print(i)
