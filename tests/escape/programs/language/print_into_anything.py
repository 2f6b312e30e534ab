# language: restricted
# expect: rejected error ok
# why: print(file=...) would call a method of the program's choice on an object of its choice.
class Sink:
    def write(self, text):
        raise ValueError("called")
print("x", file=context)
