# expect: <4> 4 <%s>
class Record:
    def __init__(self, obj, format):
        self.obj = obj
        self.format = format
    def render(self):
        return self.format % self.obj
r = Record(3, "<%s>")
r.obj += 1
print(r.render(), r.obj, r.format)
