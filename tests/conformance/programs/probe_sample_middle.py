# expect: 100 True
mid = len(context) // 2
window = context[mid - 50 : mid + 50]
print(len(window), "\n" in window)
