# language: restricted
# expect: error
# says: 'NoneType' object is not callable
# why: A zone could be read from an object that hands the library's reader whatever it likes.
import zoneinfo
class File:
    def read(self, size): escaped(size)
zoneinfo.ZoneInfo.from_file(File(), key="x")
