# expect: [2.0, 'fine', 'end'] ['ZeroDivisionError', 'end'] ['TypeError', 'end']
def f(x):
    out = []
    try:
        out.append(10 / x)
    except (ZeroDivisionError, TypeError) as e:
        out.append(type(e).__name__)
    else:
        out.append("fine")
    finally:
        out.append("end")
    return out
print(f(5), f(0), f("a"))
