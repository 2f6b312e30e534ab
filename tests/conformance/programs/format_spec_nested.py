# expect:       3.14|left    |  mid  |1,000,000|0xff|3.14159
width, value = 10, 3.14159
print(f"{value:{width}.2f}|{'left':<8}|{'mid':^7}|{1_000_000:,}|{255:#x}|{value!r}")
