# expect: ['in', 'body', 'out'] True
import contextlib
class Log:
    lines = []
    @staticmethod
    @contextlib.contextmanager
    def section(name):
        Log.lines.append("in")
        yield name
        Log.lines.append("out")
    @contextlib.contextmanager
    def own(self):
        yield self
with Log.section("a"):
    Log.lines.append("body")
log = Log()
with log.own() as same:
    print(Log.lines, same is log)
