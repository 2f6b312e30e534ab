# advice: syntax error
for x in range(3) print(x)
