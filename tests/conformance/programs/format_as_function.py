# expect: Why? hi!
print(list(map("<{}>".format, [1, 2])), " ".join("{}:{}".format(k, v) for k, v in {"a": 1}.items()))
template = "{q}?"
ask = template.format
print(ask(q="Why"), str.format("{}!", "hi"))
