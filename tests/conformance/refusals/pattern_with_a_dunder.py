# advice: not available in a pattern
match context:
    case str(__class__=c):
        print(c)
